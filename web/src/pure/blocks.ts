/**
 * Markdown as blocks, while it grows. What lies before the last two blocks cannot change any
 * more, so a long answer costs what is new of it, not all of it, at every step.
 */

import { Marked, type Token, type Tokens } from "marked";
import { mathInBlocks, mathInLines } from "./math";

const reader = new Marked({ gfm: true });
reader.use({ extensions: [mathInBlocks, mathInLines] });

export type { Token, Tokens };

export function blocksOf(text: string): Token[] {
  return reader.lexer(text.replace(/\r\n?/g, "\n"));
}

export class GrowingBlocks {
  #settled: Token[] = [];
  #tail = "";
  #whole = "";

  /** The blocks of `text`. Fast where it goes on from the text before. */
  of(text: string): Token[] {
    if (text === this.#whole) return [...this.#settled, ...blocksOf(this.#tail)];
    if (text.startsWith(this.#whole)) this.#tail += text.slice(this.#whole.length).replace(/\r/g, "");
    else {
      this.#settled = [];
      this.#tail = text.replace(/\r\n?/g, "\n");
    }
    this.#whole = text;
    const found = blocksOf(this.#tail);
    const unsettled = lastBlocks(found);
    for (const block of found.slice(0, unsettled)) {
      this.#settled.push(block);
      this.#tail = this.#tail.slice(block.raw.length);
    }
    return [...this.#settled, ...found.slice(unsettled)];
  }
}

/** Where the last two blocks begin, blank lines not counted. */
function lastBlocks(found: readonly Token[]): number {
  let at = found.length;
  for (let seen = 0; at > 0 && seen < 2; at--) if (found[at - 1]!.type !== "space") seen++;
  return at;
}
