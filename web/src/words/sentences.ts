/** What the server says in English, in the language of the page. A chunk of its own: the first
 * answer needs none of it. */

import type { components } from "../api/schema";
import { words } from "../stores/appearance.svelte";
import { sentences as en } from "./sentences.en";
import { sentences as ja } from "./sentences.ja";

export type Sentence = components["schemas"]["Sentence"];
/** A value as it stands in a sentence: sentences among them are worded already; undefined: none. */
export type Shown = string | undefined;
export type Wordings = Record<string, (values: Record<string, Shown>) => string>;

/** By the code of the language. What has no words in it is said in the server's own, English. */
const WORDINGS: Record<string, Wordings> = { en, ja };

type Value = Sentence["values"][string];

function shown(value: Value, language: string): string {
  if (typeof value === "string") return value;
  if (typeof value === "number") return String(value);
  if ("code" in value) return wording(value, language);
  return value.map((each) => wording(each, language)).join(language === "ja" ? "。" : " ");
}

export function wording(sentence: Sentence, language: string): string {
  const word = WORDINGS[language]?.[sentence.code];
  if (word === undefined) return sentence.text;
  const values = Object.entries(sentence.values).map(([name, value]) => [
    name,
    shown(value, language),
  ]);
  return word(Object.fromEntries(values));
}

/** In the language chosen. */
export const worded = (sentence: Sentence): string => wording(sentence, words().code);

/** The language it comes out in, where that is not the page's. */
export const foreign = (sentence: Sentence): string | undefined =>
  words().code === "en" || WORDINGS[words().code]?.[sentence.code] ? undefined : "en";
