import { describe, expect, it } from "vitest";
import type { Activity, ModelActivity } from "../api/activity";
import { frontier, spots } from "./frontier";
import { line, roundUp, scale, ticks, namesApart } from "./plotting";
import { cacheHits, current, firstToken, latest, memory, tokensPerSecond, waiting } from "./series";

const NOTHING = {
  waiting: 0,
  running: 0,
  answers: 0,
  prompt_tokens: 0,
  cached_tokens: 0,
  completion_tokens: 0,
  first_tokens: 0,
  first_token_seconds: 0,
  engine: null,
};

function look(seconds: number, ...models: (Partial<ModelActivity> & { model: string })[]): Activity {
  return {
    seconds,
    memory: { total: 1, available: 1, budget: 1, gateway: 1 },
    models: models.map((model) => ({ ...NOTHING, ...model })),
    requests: [],
  };
}

const values = (series: { points: readonly { value: number | null }[] } | undefined) =>
  series?.points.map(({ value }) => value);

describe("rates", () => {
  it("are differences over the server's seconds, for each model", () => {
    const history = [
      look(10, { model: "b", completion_tokens: 100 }),
      look(12, { model: "b", completion_tokens: 140 }, { model: "a", completion_tokens: 8 }),
      look(13, { model: "b", completion_tokens: 140 }, { model: "a", completion_tokens: 18 }),
    ];
    const [a, b] = tokensPerSecond(history);
    expect([a!.name, values(a)]).toEqual(["a", [4, 10]]); // it had counted nothing before
    expect([b!.name, values(b)]).toEqual(["b", [20, 0]]);
    expect(tokensPerSecond(history.slice(0, 1))[0]!.points).toEqual([]);
  });
  it("are missing where nothing happened", () => {
    const history = [
      look(0, { model: "a", first_tokens: 1, first_token_seconds: 3, prompt_tokens: 10 }),
      look(1, { model: "a", first_tokens: 3, first_token_seconds: 4, prompt_tokens: 30, cached_tokens: 15 }),
      look(2, { model: "a", first_tokens: 3, first_token_seconds: 4, prompt_tokens: 30, cached_tokens: 15 }),
      look(3),
    ];
    const [first] = firstToken(history);
    expect(values(first)).toEqual([0.5, null, null]);
    expect([latest(first), current(first)]).toEqual([0.5, null]);
    expect(values(cacheHits(history)[0])).toEqual([0.75, null, null]);
    expect(values(waiting(history)[0])).toEqual([0, 0, null]);
    expect(values(memory(history)[0])).toEqual([null, null, null]);
  });
});

describe("plots", () => {
  it("end at round numbers", () => {
    expect([0, 0.03, 1, 1.1, 3, 51, 1000].map(roundUp)).toEqual([1, 0.05, 1, 2, 5, 100, 1000]);
    expect(ticks(0, 5, 2)).toEqual([0, 2.5, 5]);
  });
  it("put values where they belong, and interrupt a line where there are none", () => {
    const [x, y] = [scale([0, 10], [0, 100]), scale([0, 1], [50, 0])];
    const points = [1, 0.5, null, 0.5, null].map((value, at) => ({ at, value }));
    expect(line(points, x, y)).toEqual({ path: "M0.0 0.0L10.0 25.0", dots: "M30.0 25.0h0" });
    expect(scale([3, 3], [0, 1])(3)).toBe(0);
  });
});

describe("the frontier", () => {
  const settings = {
    cache_layout: "streams",
    key_type: "f16",
    value_type: "f16",
    flash_attention: false,
    threads: 1,
    affinity: "free",
    micro_batch: 512,
    repack: true,
  };
  function point(weights: string | null, gain: number, divergence: number | null, on: boolean) {
    const loss = divergence === null ? null : { ...LOSS, divergence };
    const flags = { admissible: true, chosen: false, on_frontier: on };
    const tokens_per_second = { prefill: 1, empty: 1, deep: 1, many: 1 };
    return { weights, settings, tokens_per_second, gain, loss, ...flags };
  }
  const LOSS = {
    tokens: 1,
    divergence: 0,
    divergence_error: 0,
    agreement: 1,
    agreement_error: 0,
    source_perplexity: 1,
    perplexity: 1,
    perplexity_error: 0,
  };
  it("is what nobody beats at both, by what it loses", () => {
    const all = spots(
      {
        measured_at: "",
        depth: 1,
        users: 1,
        max_loss: 0.02,
        objection: null,
        baseline: point(null, 1, null, true),
        points: [
          point("Q8_0", 1.4, 0.002, true),
          point("Q4_0", 1.6, 0.1, true),
          point("Q6_K", 0.9, 0.004, false),
        ],
      },
      "as it is",
      "with other settings",
    );
    expect(all.map(({ name }) => name)).toEqual(["as it is", "Q4_0", "Q8_0", "Q6_K"]);
    expect(all.map(({ published }) => published)).toEqual([true, false, false, false]);
    expect(frontier(all).map(({ name }) => name)).toEqual(["as it is", "Q8_0", "Q4_0"]);
  });
});

describe("names of spots", () => {
  it("stay where nothing is near", () => {
    const spots = [
      { x: 0, y: 10 },
      { x: 300, y: 11 },
      { x: 0, y: 60 },
    ];
    expect(namesApart(spots, 120, 13)).toEqual([10, 11, 60]);
  });
  it("never lie on each other, in whatever order they come", () => {
    const spots = [20, 22, 20, 21].map((y, index) => ({ x: index, y }));
    const heights = [...namesApart(spots, 120, 13)].sort((a, b) => a - b);
    for (let at = 1; at < heights.length; at++) {
      expect(heights[at]! - heights[at - 1]!).toBeGreaterThanOrEqual(13);
    }
  });
});
