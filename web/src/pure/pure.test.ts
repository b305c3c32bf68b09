import { describe, expect, it } from "vitest";
import type { Heading, Message } from "../api/conversations";
import { problem } from "../api/http";
import { GrowingBlocks, blocksOf, type Section, type Token } from "./blocks";
import { asMarkdown, fileName } from "./exporting";
import { fullness, percent, rounded, speed } from "./figures";
import { spans } from "./highlighting";
import { safeAddress } from "./links";
import { namesIn } from "./lists";
import { branch, byParent, leafUnder } from "./tree";
import { readVotes, tally } from "./tally";
import { wilson } from "./wilson";
import { en } from "../words/en";
import { ja } from "../words/ja";

const TREE = [
  { id: "q1", parent: null },
  { id: "a1", parent: "q1" },
  { id: "a2", parent: "q1" },
  { id: "q2", parent: "a1" },
  { id: "a3", parent: "q2" },
  { id: "q1b", parent: null },
];

describe("code", () => {
  const coloured = (code: string, language: string): string[] =>
    spans(code, language).map(({ kind, from, to }) => `${kind}: ${code.slice(from, to)}`);
  it("is coloured by comments, strings, numbers and keywords", () => {
    expect(coloured('def f(x):  # why "not"\n    return x + 1.5', "python")).toEqual([
      "keyword: def",
      'comment: # why "not"',
      "keyword: return",
      "number: 1.5",
    ]);
    expect(coloured("let a = `//`; // if", "ts")).toEqual([
      "keyword: let",
      "string: `//`",
      "comment: // if",
    ]);
    expect(coloured("SELECT '--' FROM t -- all", "sql")).toEqual([
      "keyword: SELECT",
      "string: '--'",
      "keyword: FROM",
      "comment: -- all",
    ]);
  });
  it("is left alone where it is none, and read in time where it is hostile", () => {
    expect(coloured("if 1", "text")).toEqual([]);
    expect(coloured("if 1", "")).toEqual([]);
    const began = performance.now();
    for (const part of ["\\", "'", '"""', "/*", "# ", "1e", "a"]) spans(part.repeat(50_000), "js");
    expect(performance.now() - began).toBeLessThan(1000);
  });
});

describe("figures", () => {
  it("have the digits that count", () => {
    expect([123.4, 10, 9.96, 0.0456, 0].map(rounded)).toEqual(["123", "10", "10", "0.046", "0"]);
    expect(percent(0.204)).toBe("20 %");
  });
});

describe("a list that was typed", () => {
  it("is separated by commas or spaces", () => {
    expect(namesIn(" qwen*, gemma3:270m、a  b,")).toEqual(["qwen*", "gemma3:270m", "a", "b"]);
    expect(namesIn(" , ")).toEqual([]);
  });
});

describe("the tree", () => {
  it("shows the branch of a leaf, first message first", () => {
    expect(branch(TREE, "a3").map(({ id }) => id)).toEqual(["q1", "a1", "q2", "a3"]);
    expect(branch(TREE, null).map(({ id }) => id)).toEqual(["q1b"]);
    expect(branch([], null)).toEqual([]);
  });
  it("knows the other tries, of first questions too", () => {
    const tries = byParent(TREE);
    expect(tries.get("q1")!.map(({ id }) => id)).toEqual(["a1", "a2"]);
    expect(tries.get(null)!.map(({ id }) => id)).toEqual(["q1", "q1b"]);
  });
  it("follows the latest message at every fork", () => {
    expect(leafUnder(TREE, "a1")).toBe("a3");
    expect(leafUnder(TREE, "q1")).toBe("a2");
  });
});

const plain = (blocks: readonly Token[]): string => JSON.stringify(blocks);

const TEXT = `# One

Some *text* with \`code\`, a [link](https://example.org) and $e^{i\\pi}$.

- a list
- of two

  with a paragraph

| a | b |
|---|---|
| 1 | 2 |

\`\`\`python
def f():

    return "a"
\`\`\`

$$
\\int_0^1 x\\,dx
$$

The end\r
of it.
`;

describe("blocks that grow", () => {
  it.each([1, 3, 7, 50])("are those of the whole, %i characters at a time", (step) => {
    const growing = new GrowingBlocks();
    let last: readonly Section[] = [];
    for (let at = 0; at < TEXT.length + step; at += step) last = growing.of(TEXT.slice(0, at));
    expect(plain(last.flat())).toBe(plain(blocksOf(TEXT)));
  });
  it("keep the blocks that cannot change", () => {
    const growing = new GrowingBlocks();
    const before = growing.of(TEXT.slice(0, 200));
    expect(growing.of(TEXT)[0]![0]).toBe(before[0]![0]);
  });
  it("come in sections, and those that are full are never touched again", () => {
    const growing = new GrowingBlocks();
    const text = TEXT.repeat(100);
    const before = growing.of(text.slice(0, text.length / 2));
    const after = growing.of(text);
    expect(before.length).toBeGreaterThan(2);
    expect(after.length).toBeGreaterThan(before.length);
    for (const [number, section] of before.slice(0, -1).entries()) expect(after[number]).toBe(section);
    expect(plain(after.flat())).toBe(plain(blocksOf(text)));
  });
  it("begin again with another text", () => {
    const growing = new GrowingBlocks();
    growing.of(TEXT);
    expect(plain(growing.of("Else.").flat())).toBe(plain(blocksOf("Else.")));
  });
});

function formulas(text: string): string[] {
  return blocksOf(text)
    .flatMap((block) => ("tokens" in block && block.tokens ? block.tokens : [block]))
    .filter((token) => token.type === "formula")
    .map((token) => String((token as unknown as { tex: string }).tex));
}

describe("formulas", () => {
  it("are found in all four spellings", () => {
    expect(formulas("a $x^2$ b \\(y\\) c")).toEqual(["x^2", "y"]);
    expect(formulas("$$\nz\n$$")).toEqual(["z"]);
    expect(formulas("\\[\nz\n\\]")).toEqual(["z"]);
  });
  it("are not prices", () => {
    expect(formulas("It costs $5 or $6, at most $10.")).toEqual([]);
  });
});

describe("links", () => {
  it.each(["https://example.org/a?b", "http://127.0.0.1:1/", "mailto:a@example.org"])(
    "may lead to %s",
    (address) => expect(safeAddress(address)).toBe(address),
  );
  it.each([
    "javascript:alert(1)", "JaVaScRiPt:alert(1)", " javascript:alert(1)", "java\nscript:alert(1)",
    "data:text/html,x", "vbscript:x", "file:///etc/passwd", "//example.org", "/api/delete", "#x",
    "blob:https://x", "https://",
  ])("may not lead to %s", (address) => expect(safeAddress(address)).toBeNull());
});

describe("figures", () => {
  it("are not made up from one token", () => {
    expect(speed(1, 0.5)).toBeNull();
    expect(speed(11, 0.5)).toBe(20);
  });
  it("say when the context is nearly full", () => {
    expect([fullness(10, 100), fullness(75, 100), fullness(100, 100)]).toEqual([
      "roomy", "nearly", "full",
    ]);
  });
  it("give an interval as Wilson's", () => {
    expect(wilson(0, 0)).toBeNull();
    const half = wilson(5, 10)!;
    expect(half.low).toBeCloseTo(0.2366, 4);
    expect(half.high).toBeCloseTo(0.7634, 4);
    expect(wilson(3, 3)!.high).toBe(1);
  });
});

describe("an export", () => {
  it("holds what was said, fenced and quoted", () => {
    const heading = { title: "A title", system: "Be brief." } as Heading;
    const told = [
      { role: "user", content: "Hi", reasoning: "", files: [{ name: "a.md", text: "```\nx\n```" }] },
      { role: "assistant", content: "Ho", reasoning: "hm", files: [], model: "tiny" },
    ] as unknown as Message[];
    expect(asMarkdown(heading, told)).toBe(
      "# A title\n\n## System\n\nBe brief.\n\n## User\n\n### a.md\n\n````\n```\nx\n```\n````\n\n" +
        "Hi\n\n## tiny\n\n> hm\n\nHo\n",
    );
  });
  it("has a name for every title", () => {
    expect(fileName("../日本 a?b")).toBe("日本-a-b");
    expect(fileName("///")).toBe("conversation");
  });
});

it("errors are read in both dialects", () => {
  expect(problem(404, '{"error": {"message": "No.", "code": "none"}}')).toMatchObject({
    status: 404,
    message: "No.",
    code: "none",
  });
  expect(problem(500, '{"error": "No."}')).toMatchObject({ message: "No.", code: "" });
  expect(problem(500, '{"choices": []}')).toBeNull();
  expect(problem(500, "<html>")).toBeNull();
});

describe("votes", () => {
  it("are counted for those that took part", () => {
    const found = tally([
      { candidates: ["a", "b"], winner: "b" },
      { candidates: ["a", "b"], winner: null },
      { candidates: ["b", "c"], winner: "b" },
    ]);
    expect(found.map(({ label, wins, decided }) => [label, wins, decided])).toEqual([
      ["b", 2, 2], ["a", 0, 1], ["c", 0, 1],
    ]);
  });
  it("are read only where they are votes", () => {
    expect(readVotes(null)).toEqual([]);
    expect(readVotes("{")).toEqual([]);
    expect(readVotes('[1, {"candidates": ["a"], "winner": "x"}, {"candidates": ["a"], "winner": "a"}]'))
      .toEqual([{ candidates: ["a"], winner: "a" }]);
  });
});

it("every language says everything", () => {
  expect(Object.keys(ja)).toEqual(Object.keys(en));
});
