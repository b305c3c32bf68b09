import { describe, expect, it } from "vitest";
import { byDay } from "./days";
import { isKeyName } from "./names";

const at = (year: number, month: number, day: number, hour = 12): number =>
  new Date(year, month - 1, day, hour).getTime() / 1000;

describe("days", () => {
  const now = new Date(2026, 2, 5, 0, 30); // half an hour after midnight
  const told = (...updated: number[]): string[] =>
    byDay(updated.map((each) => ({ updated: each })), now).map(
      ({ age, month, items }) =>
        `${age}${month ? ` ${month.getFullYear()}-${month.getMonth() + 1}` : ""}: ${items.length}`,
    );
  it("are those of the calendar, not of 24 hours", () => {
    expect(told(at(2026, 3, 5, 0), at(2026, 3, 4, 23), at(2026, 3, 4, 0), at(2026, 3, 3, 23))).toEqual([
      "today: 1",
      "yesterday: 2",
      "week: 1",
    ]);
  });
  it("end with a week; before, months and years are told apart", () => {
    expect(
      told(at(2026, 2, 26), at(2026, 2, 25), at(2026, 2, 1), at(2026, 1, 31), at(2025, 1, 31)),
    ).toEqual(["week: 1", "older 2026-2: 2", "older 2026-1: 1", "older 2025-1: 1"]);
  });
  it("of a clock that is behind the server's are today", () => {
    expect(told(at(2026, 3, 6))).toEqual(["today: 1"]);
    expect(told()).toEqual([]);
  });
});

describe("names of keys", () => {
  it("have no spaces, and begin with a letter or a digit", () => {
    expect(["ann", "a", "7.x_y-Z", "a".repeat(64)].filter(isKeyName)).toHaveLength(4);
    expect(["", "ann lee", "-a", "名前", "a/b", "a".repeat(65)].filter(isKeyName)).toEqual([]);
  });
});
