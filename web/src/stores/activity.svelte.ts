/** What the server is doing, looked at every second while somebody watches. */

import * as api from "../api/activity";
import { access } from "./access.svelte";
import { complaint, notices, type Complaint } from "./notices.svelte";

const EVERY = 1000;
/** Looks that are kept: five minutes. */
const KEPT = 301;

class ActivityStore {
  #history = $state.raw<readonly api.Activity[]>([]);
  #missing = $state.raw<Complaint | null>(null);

  get history(): readonly api.Activity[] {
    return this.#history;
  }
  get now(): api.Activity | null {
    return this.#history.at(-1) ?? null;
  }
  /** Why there is nothing newer. */
  get missing(): Complaint | null {
    return this.#missing;
  }
  /** Look until what is returned is called. A page that nobody sees does not look. */
  watch(): () => void {
    let timer: ReturnType<typeof setTimeout> | undefined;
    let over = false;
    const look = async (): Promise<void> => {
      if (!document.hidden) await this.#look();
      if (!over) timer = setTimeout(() => void look(), EVERY);
    };
    void look();
    return () => {
      over = true;
      clearTimeout(timer);
    };
  }
  async stop(id: string): Promise<void> {
    await notices.attempt(() => api.stop(id));
    await this.#look();
  }
  async #look(): Promise<void> {
    try {
      const seen = await api.activity();
      // A server that was started anew counts from the beginning.
      const past = this.#history.filter(({ seconds }) => seconds < seen.seconds);
      this.#history = [...past, seen].slice(-KEPT);
      this.#missing = null;
    } catch (error) {
      if (!access.refusedBy(error)) this.#missing = complaint(error);
    }
  }
}

export const activity = new ActivityStore();
