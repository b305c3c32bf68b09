/** The search for the best profile that runs in the server, or the last one. */

import * as api from "../api/tuning";
import { access } from "./access.svelte";
import { models } from "./models.svelte";
import { notices } from "./notices.svelte";
import { plan } from "./plan.svelte";

const EVERY = 1000;

class TuningStore {
  #search = $state.raw<api.Search | null>(null);
  #finished = $state(0);

  get search(): api.Search | null {
    return this.#search;
  }
  get running(): boolean {
    return this.#search?.state === "running";
  }
  /** Grows with every search that ends: what was found before may have changed. */
  get finished(): number {
    return this.#finished;
  }
  /** Look every second until what is returned is called. */
  watch(): () => void {
    let timer: ReturnType<typeof setTimeout> | undefined;
    let over = false;
    const look = async (): Promise<void> => {
      await this.#look();
      if (!over) timer = setTimeout(() => void look(), EVERY);
    };
    void look();
    return () => {
      over = true;
      clearTimeout(timer);
    };
  }
  async begin(wanted: api.TuneRequest): Promise<void> {
    await notices.attempt(async () => {
      this.#search = await api.begin(wanted);
    });
    await models.read();
  }
  /** Once more as it was begun; what was measured is not measured again. */
  async goOn({ model, wishes }: api.Search): Promise<void> {
    await this.begin({ model, ...wishes });
  }
  async stop(): Promise<void> {
    await notices.attempt(() => api.stop());
    await this.#look();
  }
  async #look(): Promise<void> {
    const before = this.running;
    try {
      this.#search = await api.search();
    } catch (error) {
      access.refusedBy(error); // what else is asked says why
      return;
    }
    if (before && !this.running) {
      this.#finished += 1;
      await Promise.all([models.read(), plan.read()]);
    }
  }
}

export const tuning = new TuningStore();
