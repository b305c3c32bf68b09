/** Which models fit this machine for a wish, and how fast they should be. */

import * as api from "../api/plan";
import { notices } from "./notices.svelte";

class PlanStore {
  #wishes = $state.raw<api.Wishes>({ users: 1, context: null, prompt: 512 });
  #made = $state.raw<api.Plan | null>(null);
  #models = $derived(new Map(this.#made?.models.map((model) => [model.model, model]) ?? []));

  get wishes(): api.Wishes {
    return this.#wishes;
  }
  get made(): api.Plan | null {
    return this.#made;
  }
  of(model: string): api.PlannedModel | null {
    return this.#models.get(model) ?? null;
  }
  async wish(wishes: api.Wishes): Promise<void> {
    this.#wishes = wishes;
    await this.read();
  }
  async read(): Promise<void> {
    const wishes = this.#wishes;
    await notices.attempt(async () => {
      const made = await api.plan(wishes);
      if (wishes === this.#wishes) this.#made = made; // else a later wish has been asked for
    });
  }
}

export const plan = new PlanStore();
