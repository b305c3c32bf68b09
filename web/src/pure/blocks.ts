/**
 * Markdown as blocks, while it grows. What lies before the last two blocks cannot change any
 * more, so a long answer costs what is new of it, not all of it, at every step. For the page's
 * sake they come in sections of a screen or so: it looks at the last one, and at no block before.
 */

import { Marked, type Token, type Tokens } from "marked";
import { mathInBlocks, mathInLines } from "./math";

const reader = new Marked({ gfm: true });
reader.use({ extensions: [mathInBlocks, mathInLines] });

/** A section is full with the block that reaches this. */
const SECTION_CHARACTERS = 3000;

export type { Token, Tokens };
export type Section = readonly Token[];

export function blocksOf(text: string): Token[] {
  return reader.lexer(text.replace(/\r\n?/g, "\n"));
}

export class GrowingBlocks {
  /** Full sections, and the one that is not: of blocks that cannot change. */
  #full: Section[] = [];
  #open: Token[] = [];
  #openCharacters = 0;
  #tail = "";
  #whole = "";

  /** The blocks of what is `written`. Fast where it goes on from what was before. */
  of(written: string): readonly Section[] {
    const text = written.endsWith("\r") ? written.slice(0, -1) : written; // half of a line's end
    if (!text.startsWith(this.#whole)) this.#forget();
    this.#tail += text.slice(this.#whole.length).replace(/\r\n?/g, "\n");
    this.#whole = text;
    const found = blocksOf(this.#tail);
    const unsettled = lastBlocks(found);
    for (const block of found.slice(0, unsettled)) this.#settle(block);
    return [...this.#full, [...this.#open, ...found.slice(unsettled)]];
  }
  #settle(block: Token): void {
    this.#tail = this.#tail.slice(block.raw.length);
    this.#open.push(block);
    this.#openCharacters += block.raw.length;
    if (this.#openCharacters < SECTION_CHARACTERS) return;
    this.#full.push(this.#open);
    this.#open = [];
    this.#openCharacters = 0;
  }
  #forget(): void {
    this.#full = [];
    this.#open = [];
    this.#openCharacters = 0;
    this.#tail = "";
    this.#whole = "";
  }
}

/** Where the last two blocks begin, blank lines not counted. */
function lastBlocks(found: readonly Token[]): number {
  let at = found.length;
  for (let seen = 0; at > 0 && seen < 2; at--) if (found[at - 1]!.type !== "space") seen++;
  return at;
}
