/** Conversations, as the server keeps them. */

import type { ErrorValues } from "../pure/filling";
import { events, get, order, send } from "./http";
import type { components } from "./schema";

type Schemas = components["schemas"];
export type Heading = Schemas["Heading"];
export type Conversation = Schemas["Conversation"];
export type ConversationList = Schemas["ConversationList"];
export type Message = Schemas["Message"];
export type AttachedFile = Schemas["AttachedFile"];
export type Figures = Schemas["Figures"];
export type Wishes = Schemas["Wishes"];
export type SeenPrompt = Schemas["SeenPrompt"];
export type Change = Partial<Schemas["ChangedConversation"]>;
export type News =
  | Schemas["Whole"]
  | { type: "reading"; tokens: number; prompt_tokens: number }
  | { type: "more"; content: string; reasoning: string }
  | { type: "failed"; message: string; code: string; values: ErrorValues };

const ROOT = "/freehold/v1/conversations";

export const list = (containing: string): Promise<ConversationList> =>
  get(`${ROOT}?containing=${encodeURIComponent(containing)}`);

export const read = (id: string): Promise<Conversation> => get(`${ROOT}/${id}`);

export const begin = (model: string | null): Promise<Conversation> => send("POST", ROOT, { model });

export const change = (id: string, changed: Change): Promise<Conversation> =>
  send("PATCH", `${ROOT}/${id}`, changed);

export const remove = (id: string): Promise<void> => order("DELETE", `${ROOT}/${id}`);

export const ask = (
  id: string,
  parent: string | null,
  content: string,
  files: readonly AttachedFile[],
): Promise<Message> => send("POST", `${ROOT}/${id}/messages`, { parent, content, files });

export const answer = (id: string, parent: string, model: string): Promise<Message> =>
  send("POST", `${ROOT}/${id}/answers`, { parent, model });

export const stop = (id: string, message: string): Promise<Message> =>
  send("POST", `${ROOT}/${id}/messages/${message}/stop`, {});

/** Behind its last token; only where it is `resumable`. */
export const goOn = (id: string, message: string): Promise<Message> =>
  send("POST", `${ROOT}/${id}/messages/${message}/continue`, {});

export const prompt = (id: string, message: string): Promise<SeenPrompt> =>
  get(`${ROOT}/${id}/messages/${message}/prompt`);

export async function* watch(
  id: string,
  message: string,
  signal: AbortSignal,
): AsyncGenerator<News> {
  for await (const data of events(`${ROOT}/${id}/messages/${message}/events`, signal)) {
    yield JSON.parse(data) as News;
  }
}
