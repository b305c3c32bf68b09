/**
 * The open conversation. The server writes answers; this watches them:
 *
 *   ask ──▶ begin the answer ──▶ watch ◀── open (again): whoever comes back goes on watching
 *
 * Text that arrives is shown once a frame, whatever the number of events. While it grows it is
 * held beside the messages, so that nothing but its own place in the page looks at it.
 */

import { SvelteMap } from "svelte/reactivity";
import * as api from "../api/conversations";
import { Problem } from "../api/http";
import { branch, byParent, leafUnder } from "../pure/tree";
import { conversations } from "./conversations.svelte";
import { models } from "./models.svelte";
import { notices } from "./notices.svelte";
import { route } from "./route.svelte";

const RETRY_MILLISECONDS = 1000;

/** How far a prompt has been read; `read` 0 also where nobody says. */
export interface Reading {
  readonly read: number;
  readonly of: number;
}

class Chat {
  #heading = $state.raw<api.Heading | null>(null);
  #messages = $state.raw<readonly api.Message[]>([]);
  #chosen = $state<string | null>(null);
  #watching = new Map<string, AbortController>();
  #growing = new SvelteMap<string, api.Message>();
  #reading = new SvelteMap<string, Reading>();
  #shown = $derived(branch(this.#messages, this.#heading?.leaf ?? null));
  #tries = $derived(byParent(this.#messages));

  get heading(): api.Heading | null {
    return this.#heading;
  }
  get messages(): readonly api.Message[] {
    return this.#messages;
  }
  /** The branch one sees. */
  get shown(): readonly api.Message[] {
    return this.#shown;
  }
  /** A message with the text it has this moment. */
  grown(message: api.Message): api.Message {
    return this.#growing.get(message.id) ?? message;
  }
  /** How far the prompt of an answer has been read of which nothing is written yet. */
  reading(message: api.Message): Reading | null {
    return this.#reading.get(message.id) ?? null;
  }
  /** A message and its siblings, in the order they were made. */
  triesOf(message: api.Message): readonly api.Message[] {
    return this.#tries.get(message.parent) ?? [message];
  }
  get running(): api.Message | null {
    const last = this.#shown.at(-1);
    return last?.status === "running" ? last : null;
  }
  /** What answers next: as chosen, as before in this conversation, or the first there is. */
  get model(): string | null {
    const names = models.here.map(({ id }) => id);
    const wanted = [this.#chosen, this.#heading?.model, names.find((id) => this.#isLoaded(id))];
    return wanted.find((name) => name && names.includes(name)) ?? models.usual[0] ?? null;
  }
  #isLoaded(id: string): boolean {
    return models.here.some((model) => model.id === id && model.freehold.loaded);
  }

  async open(id: string | null): Promise<void> {
    if (id !== null && id === this.#heading?.id) return;
    this.#leave();
    this.#heading = null;
    this.#messages = [];
    if (id !== null) await notices.attempt(async () => this.#take(await api.read(id)));
  }
  #leave(): void {
    for (const watching of this.#watching.values()) watching.abort();
    this.#watching.clear();
    this.#growing.clear();
    this.#reading.clear();
  }
  #take({ messages, ...heading }: api.Conversation): void {
    this.#heading = heading;
    this.#messages = messages;
    for (const { id, status } of messages) if (status === "running") void this.#watch(id);
  }
  async choose(model: string): Promise<void> {
    this.#chosen = model;
    await this.change({ model });
  }
  async change(changed: api.Change): Promise<void> {
    const id = this.#heading?.id;
    if (id === undefined) return;
    await notices.attempt(async () => {
      const { messages: _, ...heading } = await api.change(id, changed);
      if (this.#heading?.id === id) this.#heading = heading;
    });
  }
  /** A conversation that is there, before anything is said in it. */
  async begun(): Promise<string> {
    if (this.#heading === null) {
      const { messages: _, ...heading } = await api.begin(this.model);
      this.#heading = heading;
      route.replace(heading.id);
    }
    return this.#heading.id;
  }
  /** Ask after the branch shown, and have it answered. */
  async ask(content: string, files: readonly api.AttachedFile[]): Promise<boolean> {
    return this.#askAfter(this.#shown.at(-1)?.id ?? null, content, files);
  }
  /** Ask otherwise in place of `message`: a branch of its own. */
  async edit(message: api.Message, content: string): Promise<boolean> {
    return this.#askAfter(message.parent, content, message.files);
  }
  async #askAfter(
    parent: string | null,
    content: string,
    files: readonly api.AttachedFile[],
  ): Promise<boolean> {
    let asked = false;
    await notices.attempt(async () => {
      const id = await this.begun();
      const question = await api.ask(id, parent, content, files);
      asked = true;
      this.#add(question);
      await this.#answer(id, question.id);
    });
    return asked;
  }
  /** Answer the question before `message` once more: a branch of its own. */
  async again(message: api.Message): Promise<void> {
    const id = this.#heading?.id;
    const question = message.role === "user" ? message.id : message.parent;
    if (id === undefined || question === null) return;
    await notices.attempt(() => this.#answer(id, question));
  }
  async #answer(id: string, question: string): Promise<void> {
    if (this.model === null) return;
    const answer = await api.answer(id, question, this.model);
    this.#add(answer);
    void this.#watch(answer.id);
    await conversations.read();
    await this.#named(id);
  }
  /** The server names a conversation after its first question. */
  async #named(id: string): Promise<void> {
    const listed = conversations.list.data.find((heading) => heading.id === id);
    if (listed && this.#heading?.id === id) {
      this.#heading = { ...this.#heading, title: listed.title };
    }
  }
  /** Whether `message` was cut, and nothing follows it. */
  canGoOn(message: api.Message): boolean {
    return message.resumable && message.id === this.#shown.at(-1)?.id;
  }
  /** Go on with an answer that was cut, in its place. */
  async goOn(message: api.Message): Promise<void> {
    const id = this.#heading?.id;
    if (id === undefined) return;
    await notices.attempt(async () => {
      this.#replace(await api.goOn(id, message.id));
      void this.#watch(message.id);
    });
  }
  async stop(): Promise<void> {
    const id = this.#heading?.id;
    const running = this.running;
    if (id === undefined || running === null) return;
    await notices.attempt(async () => this.#replace(await api.stop(id, running.id)));
  }
  async show(message: api.Message): Promise<void> {
    const leaf = leafUnder(this.#messages, message.id);
    if (this.#heading) this.#heading = { ...this.#heading, leaf };
    await this.change({ leaf });
  }
  #add(message: api.Message): void {
    if (this.#heading) this.#heading = { ...this.#heading, leaf: message.id };
    this.#messages = [...this.#messages, message];
  }
  #replace(message: api.Message): void {
    this.#growing.delete(message.id);
    this.#messages = this.#messages.map((each) => (each.id === message.id ? message : each));
  }

  async #watch(message: string): Promise<void> {
    const id = this.#heading?.id;
    if (id === undefined || this.#watching.has(message)) return;
    const leaving = new AbortController();
    this.#watching.set(message, leaving);
    while (!leaving.signal.aborted && (await this.#follow(id, message, leaving.signal))) {
      await new Promise((over) => setTimeout(over, RETRY_MILLISECONDS));
    }
    this.#watching.delete(message);
    this.#reading.delete(message);
    if (!leaving.signal.aborted) await models.read(); // it may have been loaded for this
  }
  /** Until the answer has ended; whether the connection was lost before. */
  async #follow(id: string, message: string, leaving: AbortSignal): Promise<boolean> {
    let arrived = { content: "", reasoning: "" };
    let due = false;
    const show = (): void => {
      due = false;
      if (leaving.aborted) return;
      const grown = this.#growing.get(message);
      if (grown) this.#growing.set(message, { ...grown, ...arrived });
    };
    try {
      for await (const news of api.watch(id, message, leaving)) {
        if (news.type === "failed") throw new Problem(500, news.message, news.code, news.values);
        if (news.type === "whole") {
          arrived = { content: news.message.content, reasoning: news.message.reasoning };
          if (news.message.status !== "running") {
            this.#replace(news.message);
            return false;
          }
          this.#growing.set(message, news.message);
          continue;
        }
        if (news.type === "reading") {
          this.#reading.set(message, { read: news.tokens, of: news.prompt_tokens });
          continue;
        }
        arrived.content += news.content;
        arrived.reasoning += news.reasoning;
        if (!due) {
          due = true;
          requestAnimationFrame(show);
        }
      }
    } catch (error) {
      if (leaving.aborted) return false;
      notices.complain(error);
      if (error instanceof Problem && error.status !== 0) return false; // it is gone
    }
    return !leaving.aborted;
  }
}

export const chat = new Chat();
