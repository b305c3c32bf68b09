/**
 * Colours for code, where the browser can colour ranges of a text: no element is added, so that
 * what is copied, searched and read aloud stays one text. It is done when the text has stood still
 * for a moment, never while it grows.
 */

import { spans } from "../pure/highlighting";

const STILL_MILLISECONDS = 150;
/** Longer ones stay as they are. */
const MOST_CHARACTERS = 50_000;

/** Colour the first text of `element`; what is returned takes the colours away. */
export function colour(element: HTMLElement, text: string, language: string): () => void {
  const ranges: (readonly [string, StaticRange])[] = [];
  const timer = setTimeout(() => {
    const node = [...element.childNodes].find((each) => each instanceof Text);
    if (!("highlights" in CSS) || node?.data !== text || text.length > MOST_CHARACTERS) return;
    for (const { kind, from, to } of spans(text, language)) {
      // Not `Range`: thousands of those would be brought up to date at every change of the page.
      const range = new StaticRange({
        startContainer: node,
        startOffset: from,
        endContainer: node,
        endOffset: to,
      });
      ranges.push([kind, range]);
      named(kind).add(range);
    }
  }, STILL_MILLISECONDS);
  return () => {
    clearTimeout(timer);
    for (const [kind, range] of ranges) named(kind).delete(range);
  };
}

function named(kind: string): Highlight {
  let found = CSS.highlights.get(`code-${kind}`);
  if (found === undefined) {
    found = new Highlight();
    CSS.highlights.set(`code-${kind}`, found);
  }
  return found;
}

