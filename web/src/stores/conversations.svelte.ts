/** The list of conversations beside the one that is open. */

import * as api from "../api/conversations";
import { notices } from "./notices.svelte";

class Conversations {
  #list = $state.raw<api.ConversationList>({ data: [], total: 0, kept: true });
  #containing = $state("");
  #asked = 0;

  get list(): api.ConversationList {
    return this.#list;
  }
  get containing(): string {
    return this.#containing;
  }
  async search(text: string): Promise<void> {
    this.#containing = text;
    await this.read();
  }
  async read(): Promise<void> {
    const asked = ++this.#asked;
    await notices.attempt(async () => {
      const found = await api.list(this.#containing);
      if (asked === this.#asked) this.#list = found; // not an older answer that came late
    });
  }
  async rename(id: string, title: string): Promise<void> {
    await notices.attempt(async () => void (await api.change(id, { title })));
    await this.read();
  }
  async remove(id: string): Promise<void> {
    await notices.attempt(() => api.remove(id));
    await this.read();
  }
}

export const conversations = new Conversations();
