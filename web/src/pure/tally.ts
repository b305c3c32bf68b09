/** Votes between answers to one prompt. */

import { wilson, type Share } from "./wilson";

/** `winner` null: no difference. */
export interface Vote {
  readonly candidates: readonly string[];
  readonly winner: string | null;
}

export interface Standing {
  readonly label: string;
  readonly wins: number;
  /** Votes it took part in that had a winner. */
  readonly decided: number;
  readonly share: Share | null;
}

/** Of all that were ever voted on, the most often preferred first. */
export function tally(votes: readonly Vote[]): Standing[] {
  const labels = [...new Set(votes.flatMap(({ candidates }) => candidates))];
  return labels
    .map((label) => {
      const decided = votes.filter((vote) => vote.winner !== null && vote.candidates.includes(label));
      const wins = decided.filter(({ winner }) => winner === label).length;
      return { label, wins, decided: decided.length, share: wilson(wins, decided.length) };
    })
    .sort((a, b) => (b.share?.share ?? 0) - (a.share?.share ?? 0) || a.label.localeCompare(b.label));
}

/** What was stored, as far as it is votes. */
export function readVotes(stored: string | null): Vote[] {
  try {
    const parsed: unknown = JSON.parse(stored ?? "[]");
    return Array.isArray(parsed) ? parsed.filter(isVote) : [];
  } catch {
    return [];
  }
}

function isVote(value: unknown): value is Vote {
  if (typeof value !== "object" || value === null) return false;
  const { candidates, winner } = value as Record<string, unknown>;
  return (
    Array.isArray(candidates) &&
    candidates.every((label) => typeof label === "string") &&
    (winner === null || (typeof winner === "string" && candidates.includes(winner)))
  );
}
