/** What a search found, for a plot and a table: speed against loss. */

import type { TunedPoint, Tuning } from "../api/tuning";

export interface Spot {
  /** Of the weights: a format, or as they are. */
  readonly name: string;
  readonly point: TunedPoint;
  /** Mean KL divergence; 0: nothing but rounding differs. */
  readonly loss: number;
  readonly published: boolean;
}

/** The file as it is with its usual settings, then the others by their gain. */
export function spots(
  tuning: Tuning,
  asTheyAre: string,
  otherSettings: string,
): readonly Spot[] {
  const spot = (point: TunedPoint, published: boolean): Spot => ({
    name: point.weights ?? (published ? asTheyAre : otherSettings),
    point,
    loss: point.loss?.divergence ?? 0,
    published,
  });
  const others = [...tuning.points].sort((one, other) => other.gain - one.gain);
  return [spot(tuning.baseline, true), ...others.map((point) => spot(point, false))];
}

/** Those that nobody beats at both, in the order of what they lose. */
export const frontier = (all: readonly Spot[]): readonly Spot[] =>
  all.filter(({ point }) => point.on_frontier).sort((one, other) => one.loss - other.loss);
