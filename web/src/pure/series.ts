/** From looks at the server, a second apart, to lines over time. */

import type { Activity, ModelActivity } from "../api/activity";

export interface Point {
  /** Seconds of the server's clock. */
  readonly at: number;
  /** null: there was nothing to measure. */
  readonly value: number | null;
}

export interface Series {
  readonly name: string;
  readonly points: readonly Point[];
}

/** What a model says of the time since the look before; `before` is what it had counted then. */
type Read = (now: ModelActivity, before: ModelActivity | null, seconds: number) => number | null;

/** Names of all models in `history`, sorted. */
export function namesOf(history: readonly Activity[]): readonly string[] {
  return [...new Set(history.flatMap(({ models }) => models.map(({ model }) => model)))].sort();
}

const named = (look: Activity, name: string): ModelActivity | null =>
  look.models.find(({ model }) => model === name) ?? null;

function perModel(history: readonly Activity[], read: Read): readonly Series[] {
  return namesOf(history).map((name) => ({
    name,
    points: history.slice(1).map((look, index) => {
      const past = history[index]!;
      const now = named(look, name);
      const value = now && read(now, named(past, name), look.seconds - past.seconds);
      return { at: look.seconds, value };
    }),
  }));
}

/** A quotient of two differences; null where there is nothing to divide by. */
const ratio = (part: number, whole: number): number | null => (whole > 0 ? part / whole : null);

export const tokensPerSecond = (history: readonly Activity[]): readonly Series[] =>
  perModel(history, (now, before, seconds) =>
    ratio(now.completion_tokens - (before?.completion_tokens ?? 0), seconds),
  );

/** Seconds, on average over the answers that began since. */
export const firstToken = (history: readonly Activity[]): readonly Series[] =>
  perModel(history, (now, before) =>
    ratio(
      now.first_token_seconds - (before?.first_token_seconds ?? 0),
      now.first_tokens - (before?.first_tokens ?? 0),
    ),
  );

export const waiting = (history: readonly Activity[]): readonly Series[] =>
  perModel(history, (now) => now.waiting);

/** The share of the prompts read since that was in the cache. */
export const cacheHits = (history: readonly Activity[]): readonly Series[] =>
  perModel(history, (now, before) =>
    ratio(
      now.cached_tokens - (before?.cached_tokens ?? 0),
      now.prompt_tokens - (before?.prompt_tokens ?? 0),
    ),
  );

/** Bytes. */
export const memory = (history: readonly Activity[]): readonly Series[] =>
  perModel(history, (now) => now.engine?.resident_bytes ?? null);

/** The last thing measured, however long ago. */
export const latest = (series: Series | undefined): number | null =>
  series?.points.findLast(({ value }) => value !== null)?.value ?? null;

/** What was measured at the very last look. */
export const current = (series: Series | undefined): number | null =>
  series?.points.at(-1)?.value ?? null;
