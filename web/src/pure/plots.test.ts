import { describe, expect, it } from "vitest";
import type { Activity, ModelActivity } from "../api/activity";
import { line, roundUp, scale, ticks } from "./plotting";
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
