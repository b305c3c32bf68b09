import type { Figures } from "../api/conversations";

/** Tokens per second after the first; null where there are too few to say. */
export function speed(completionTokens: number, decode: number): number | null {
  return completionTokens > 1 && decode > 0 ? (completionTokens - 1) / decode : null;
}

export const percent = (share: number): string => `${Math.round(100 * share)} %`;

/** Two digits that count. */
export const rounded = (value: number): string =>
  value >= 10 ? Math.round(value).toString() : String(Number(value.toPrecision(2)));

export type Fullness = "roomy" | "nearly" | "full";

/** How full a context is with `used` tokens: nearly, when a quarter or less is left. */
export function fullness(used: number, context: number): Fullness {
  if (used >= context) return "full";
  return used >= 0.75 * context ? "nearly" : "roomy";
}

/** Tokens the conversation has used at the end of this answer. */
export function usedAfter(figures: Figures): number {
  return figures.prompt_tokens + figures.completion_tokens;
}
