/** The geometry of plots: from values to places. */

import type { Point } from "./series";

/** The next number of the kind 1, 2, 5 × 10ⁿ that is not below `value`. */
export function roundUp(value: number): number {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  const digit = value / power;
  const nice = digit <= 1 ? 1 : digit <= 2 ? 2 : digit <= 5 ? 5 : 10;
  return nice * power;
}

/** From a range of values to a range of places. */
export function scale(
  [low, high]: readonly [number, number],
  [from, to]: readonly [number, number],
): (value: number) => number {
  const span = high - low || 1;
  return (value) => from + ((value - low) / span) * (to - from);
}

/** Evenly spread values from `low` to `high`, both included. */
export function ticks(low: number, high: number, steps: number): readonly number[] {
  return Array.from({ length: steps + 1 }, (_, index) => low + ((high - low) * index) / steps);
}

export interface Spotted {
  readonly x: number;
  readonly y: number;
}

/** Heights for the names of spots, each near its own and none on another that is beside it. */
export function namesApart(
  spots: readonly Spotted[],
  width: number,
  height: number,
): readonly number[] {
  const order = spots.map((_, index) => index).sort((a, b) => spots[a]!.y - spots[b]!.y);
  const heights = spots.map(({ y }) => y);
  const placed: number[] = [];
  for (const index of order) {
    const beside = placed.filter((each) => Math.abs(spots[each]!.x - spots[index]!.x) < width);
    const lowest = Math.max(-Infinity, ...beside.map((each) => heights[each]!));
    heights[index] = Math.max(spots[index]!.y, lowest + height);
    placed.push(index);
  }
  return heights;
}

const place = (value: number): string => value.toFixed(1);

export interface Line {
  readonly path: string;
  /** Points without neighbours: the path of a line would not show them. */
  readonly dots: string;
}

/** A line that is interrupted where nothing was measured. */
export function line(
  points: readonly Point[],
  x: (at: number) => number,
  y: (value: number) => number,
): Line {
  const measured = (index: number): boolean => (points[index]?.value ?? null) !== null;
  let [path, dots] = ["", ""];
  points.forEach(({ at, value }, index) => {
    if (value === null) return;
    const where = `${place(x(at))} ${place(y(value))}`;
    if (measured(index - 1)) path += `L${where}`;
    else if (measured(index + 1)) path += `M${where}`;
    else dots += `M${where}h0`;
  });
  return { path, dots };
}
