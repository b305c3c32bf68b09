/**
 * The words of a line, with what is marked in them, as elements: made here and not by components,
 * of which a long answer would have tens of thousands, each with what the page remembers of it.
 */

import type { Token, Tokens } from "../pure/blocks";
import { decoded } from "../pure/entities";
import { safeAddress } from "../pure/links";
import type { Formula } from "../pure/math";
import { words } from "../stores/appearance.svelte";
import { showFormula } from "./formula";

type Part = readonly Token[];

/** An attachment: its element holds these. What is still the same stays the same node, so that a
 * selection outlives the growing of the line that it is in. */
export function line(tokens: Part): (element: Element) => void {
  return (element) => fill(element, tokens);
}

/** One node for each token. */
function fill(parent: Element, tokens: Part): void {
  for (const [at, token] of tokens.entries()) {
    const there = parent.childNodes[at];
    const node = nodeOf(token, there);
    if (there === undefined) parent.append(node);
    else if (there !== node) there.replaceWith(node);
  }
  while (parent.childNodes.length > tokens.length) parent.lastChild!.remove();
}

function nodeOf(token: Token, there: ChildNode | undefined): ChildNode {
  switch (token.type) {
    case "strong":
    case "em":
    case "del":
      return filled(element(token.type, there), (token as Tokens.Strong).tokens);
    case "codespan":
      return holding(element("code", there), (token as Tokens.Codespan).text);
    case "br":
      return element("br", there);
    case "escape":
      return text((token as Tokens.Escape).text, there);
    case "formula":
      return showFormula(element("span", there, "formula"), token as unknown as Formula);
    case "link":
      return link(token as Tokens.Link, there);
    case "image":
      return image(token as Tokens.Image, there);
    case "text": {
      const { tokens, text: plain } = token as Tokens.Text;
      return tokens ? filled(element("span", there), tokens) : text(decoded(plain), there);
    }
    default:
      return text(token.raw, there); // HTML, and whatever else there may be: its own letters
  }
}

/** Followed by a click alone, and only where that does no harm. */
function link({ href, tokens }: Tokens.Link, there: ChildNode | undefined): ChildNode {
  const address = safeAddress(href);
  if (address === null) return filled(element("span", there), tokens);
  const made = element("a", there);
  made.href = made.title = address;
  made.target = "_blank";
  made.rel = "noopener noreferrer nofollow";
  return filled(made, tokens);
}

function image({ text: described, href }: Tokens.Image, there: ChildNode | undefined): ChildNode {
  const made = element("span", there, "image");
  return holding(made, `[${words().imageLeftOut}: ${described || href}]`);
}

function element<Name extends keyof HTMLElementTagNameMap>(
  name: Name,
  there: ChildNode | undefined,
  kind = "",
): HTMLElementTagNameMap[Name] {
  if (there instanceof HTMLElement && there.localName === name && there.className === kind) {
    return there as HTMLElementTagNameMap[Name];
  }
  const made = document.createElement(name);
  if (kind) made.className = kind;
  return made;
}

function text(said: string, there: ChildNode | undefined): Text {
  if (!(there instanceof Text)) return new Text(said);
  // Words that are put in place of others take the selection with them; words behind them do not.
  if (said.startsWith(there.data)) there.appendData(said.slice(there.length));
  else there.data = said;
  return there;
}

function filled(made: HTMLElement, tokens: Part): HTMLElement {
  fill(made, tokens);
  return made;
}

function holding(made: HTMLElement, said: string): HTMLElement {
  const there = made.firstChild ?? undefined;
  const node = text(said, there);
  if (node !== there) made.replaceChildren(node);
  return made;
}
