/** A share of votes with Wilson's interval at 95 % (E. B. Wilson, 1927). */
export interface Share {
  readonly share: number;
  readonly low: number;
  readonly high: number;
}

const Z = 1.959964;

export function wilson(wins: number, votes: number): Share | null {
  if (votes === 0) return null;
  const share = wins / votes;
  const scale = 1 + (Z * Z) / votes;
  const middle = (share + (Z * Z) / (2 * votes)) / scale;
  const half = (Z / scale) * Math.sqrt((share * (1 - share)) / votes + (Z * Z) / (4 * votes * votes));
  return { share, low: Math.max(0, middle - half), high: Math.min(1, middle + half) };
}
