/** Formulas in Markdown: `$…$` and `\(…\)` in a line, `$$…$$` and `\[…\]` on their own. */

import type { TokenizerAndRendererExtension } from "marked";

export interface Formula {
  readonly type: "formula";
  readonly raw: string;
  readonly tex: string;
  readonly display: boolean;
}

const ALONE = /^(?:\$\$([^$]+?)\$\$|\\\[([\s\S]+?)\\\])[ \t]*(?:\n|$)/;
// As pandoc: no blank inside the dollars, no digit after them, so that prices stay prices.
const IN_LINE = /^(?:\$\$([^$\n]+?)\$\$|\$((?:[^$\n\\\s]|\\.)(?:(?:[^$\n\\]|\\.)*?(?:[^$\n\\\s]|\\.))?)\$(?!\d)|\\\(([^\n]+?)\\\)|\\\[([^\n]+?)\\\])/;

function formula(raw: string, tex: string, display: boolean): Formula {
  return { type: "formula", raw, tex: tex.trim(), display };
}

export const mathInBlocks: TokenizerAndRendererExtension = {
  name: "formulaBlock",
  level: "block",
  start: (text) => /\$\$|\\\[/.exec(text)?.index,
  tokenizer(text) {
    const found = ALONE.exec(text);
    return found ? formula(found[0], found[1] ?? found[2] ?? "", true) : undefined;
  },
};

export const mathInLines: TokenizerAndRendererExtension = {
  name: "formula",
  level: "inline",
  start: (text) => /\$|\\[([]/.exec(text)?.index,
  tokenizer(text) {
    const found = IN_LINE.exec(text);
    if (!found) return undefined;
    const alone = found[1] ?? found[4];
    return formula(found[0], alone ?? found[2] ?? found[3] ?? "", alone !== undefined);
  },
};
