/** Sentences about errors with what they are about in them: a model, a limit, what is missing. */

import type { Words } from "../words/en";
import { size } from "./sizes";

/** What the server says an error is about, by name. */
export type ErrorValues = Readonly<Record<string, string | number | readonly string[]>>;

const GROUP = /\[([^\]|]*)(?:\|([^\]]*))?\]/g;
const NAME = /\{(\w+)\}/g;
const DIGITS_OF_A_DIGEST = 12;

/**
 * `sentence` with the values in their places. They stand in brackets, which are left out where one
 * of them is not known; behind a bar stands what is said then: `[{model} is|It is] in use.`
 */
export function filled(sentence: string, values: ErrorValues, words: Words): string {
  const put = (part: string): string | null => {
    let whole = true;
    const text = part.replace(NAME, (_, name: string) => {
      const shown = inWords(name, values[name], words);
      whole &&= shown !== "";
      return shown;
    });
    return whole ? text : null;
  };
  const chosen = (_: string, known: string, otherwise: string | undefined): string =>
    put(known) ?? otherwise ?? "";
  return sentence.replace(GROUP, chosen);
}

/** Empty: it is not known. */
function inWords(name: string, value: ErrorValues[string] | undefined, words: Words): string {
  if (value === undefined) return "";
  if (typeof value === "number") {
    if (name.endsWith("_bytes")) return size(value);
    return name === "status" ? String(value) : value.toLocaleString(words.code);
  }
  if (typeof value !== "string") {
    const each = value.map((one) => (name === "scopes" ? (words.scopes[one] ?? one) : one));
    return each.join(words.between);
  }
  switch (name) {
    case "field":
      return labelled(value, words);
    case "use":
      return value === "run" ? words.forYou : words.forOthers;
    case "outcome":
      return words.outcomes[value] ?? value;
    case "actual":
    case "expected":
      return `${value.slice(0, DIGITS_OF_A_DIGEST)}…`;
    default:
      return value;
  }
}

/** The fields of forms of ours, as their labels call them: `wishes.top_p` is Top-p. */
function labelled(path: string, words: Words): string {
  const labels: Record<string, string> = {
    temperature: words.temperature,
    top_p: words.topP,
    top_k: words.topK,
    min_p: words.minP,
    repetition_penalty: words.repetition,
    seed: words.seed,
    max_tokens: words.maxTokens,
    reasoning_budget: words.reasoningBudget,
    reasoning: words.reasoning,
    system: words.system,
    title: words.title,
    name: words.keyName,
    models: words.keyModels,
    scopes: words.mayDo,
    rate: words.keyRate,
    concurrency: words.keyConcurrency,
    weight: words.keyWeight,
    expires: words.keyExpires,
    minutes: words.minutes,
    max_loss: words.maxLoss,
    depth: words.tuneDepth,
    formats: words.formats,
    users: words.planUsers,
    context: words.planContext,
    prompt: words.planPrompt,
    model: words.model,
    content: words.message,
  };
  const last = path.split(".").findLast((part) => !/^\d+$/.test(part)) ?? path;
  return labels[last] ?? path;
}
