/**
 * Where the comments, strings, numbers and keywords of a code block are: enough to read it by, in
 * one rule for all common languages. Nothing is built from it: the page colours ranges of one text.
 */

export const KINDS = ["comment", "string", "number", "keyword"] as const;
export type Kind = (typeof KINDS)[number];
export interface Span {
  readonly kind: Kind;
  readonly from: number;
  readonly to: number;
}

const KEYWORDS = new Set(
  (
    "abstract and as assert async await begin break case catch class const continue def default del " +
    "delete do done echo elif else end enum except export extends extern false fi final finally fn " +
    "for foreach from func function global go goto if impl implements import in include instanceof " +
    "interface is lambda let local loop match mod module move mut namespace new nil not null of or " +
    "package pass private protected pub public raise require return self static struct super switch " +
    "template then this throw throws trait true try type typedef typeof undefined union unless until " +
    "use using var virtual void when where while with yield None True False " +
    "int long short char bool boolean float double string str unsigned signed auto"
  ).split(" "),
);
const QUERY = new Set(
  (
    "all alter and as asc between by case create cross delete desc distinct drop else end exists from " +
    "full group having in index inner insert into is join left like limit not null offset on or order " +
    "outer primary references right select set table then union unique update using values view when " +
    "where with"
  ).split(" "),
);
/** Languages whose keywords may be shouted, and are others. */
const SHOUTED = new Set(["sql", "postgresql", "mysql", "sqlite", "plsql"]);
/** What `#` begins no comment in; elsewhere `//` begins none. */
const SLASHES = new Set(
  "c c++ cpp h hpp cs csharp java javascript js jsx ts tsx typescript json jsonc go rust rs swift kotlin kt scala dart php css scss less zig".split(
    " ",
  ),
);
const DASHES = new Set(["sql", "postgresql", "mysql", "sqlite", "plsql", "lua", "haskell", "hs", "ada"]);
const PLAIN = new Set(["", "text", "txt", "plain", "plaintext", "output", "console", "markdown", "md"]);

function rule(language: string): RegExp {
  const comment = SLASHES.has(language)
    ? String.raw`\/\/[^\n]*|\/\*[^]*?(?:\*\/|$)`
    : DASHES.has(language)
      ? String.raw`--[^\n]*`
      : String.raw`(?<![^\s;(])#[^\n]*|<!--[^]*?(?:-->|$)`;
  const text = String.raw`"""[^]*?(?:"""|$)|'''[^]*?(?:'''|$)|"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|\x60(?:[^\x60\\]|\\.)*\x60`;
  const number = String.raw`\b(?:0[xob][\da-f_]+|\d[\d_]*(?:\.\d+)?(?:e[+-]?\d+)?)\b`;
  return new RegExp(`(${comment})|(${text})|(${number})|([a-z_$][\\w$]*)`, "gi");
}

export function spans(code: string, named: string): Span[] {
  const language = named.trim().toLowerCase().split(/[\s,{]/)[0] ?? "";
  if (PLAIN.has(language)) return [];
  const found: Span[] = [];
  for (const match of code.matchAll(rule(language))) {
    const at = match.slice(1).findIndex((group) => group !== undefined);
    const known = SHOUTED.has(language) ? QUERY.has(match[0].toLowerCase()) : KEYWORDS.has(match[0]);
    if (KINDS[at] === "keyword" && !known) continue;
    found.push({ kind: KINDS[at]!, from: match.index, to: match.index + match[0].length });
  }
  return found;
}
