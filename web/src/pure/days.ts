/** When something was last touched, as a list of many such things says it. */

export interface Dated {
  /** In seconds since 1970. */
  readonly updated: number;
}

/** Calendar days of this browser's time zone; `week` the six before yesterday's. */
export type Age = "today" | "yesterday" | "week" | "older";

export interface DayGroup<T> {
  readonly age: Age;
  /** `older` ones are told apart by their month: its first day. */
  readonly month: Date | null;
  readonly items: readonly T[];
}

/** Put what comes together under one heading each, in the order it comes in. */
export function byDay<T extends Dated>(items: readonly T[], now: Date): DayGroup<T>[] {
  const groups: { age: Age; month: Date | null; items: T[] }[] = [];
  for (const item of items) {
    const then = new Date(item.updated * 1000);
    const age = ageOf(then, now);
    const month = age === "older" ? new Date(then.getFullYear(), then.getMonth(), 1) : null;
    const last = groups.at(-1);
    if (last?.age === age && last.month?.getTime() === month?.getTime()) last.items.push(item);
    else groups.push({ age, month, items: [item] });
  }
  return groups;
}

function ageOf(then: Date, now: Date): Age {
  // Not by 24 hours each: a day may have 23 or 25 of them.
  const dayBefore = (days: number): Date =>
    new Date(now.getFullYear(), now.getMonth(), now.getDate() - days);
  if (then >= dayBefore(0)) return "today";
  if (then >= dayBefore(1)) return "yesterday";
  return then >= dayBefore(7) ? "week" : "older";
}
