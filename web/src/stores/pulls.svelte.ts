/** The fetching of models. It belongs to the server: every page shows it, and none has to stay. */

import * as api from "../api/models";
import { models } from "./models.svelte";
import { notices } from "./notices.svelte";
import { plan } from "./plan.svelte";

const EVERY = 500;
const EVERY_WHILE_NOTHING_COMES = 2000;

class Pulls {
  #all = $state.raw<readonly api.PullUnderWay[]>([]);
  #timer: ReturnType<typeof setTimeout> | undefined;
  #watchers = 0;

  get all(): readonly api.PullUnderWay[] {
    return this.#all;
  }
  get #comes(): boolean {
    return this.#all.some(({ state }) => state === "going" || state === "stopping");
  }
  /** Look now and then until what is returned is called; longer where something is coming. */
  watch(): () => void {
    this.#watchers += 1;
    this.#lookAgain(0);
    return () => void (this.#watchers -= 1);
  }
  #lookAgain(after: number): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => void this.#look(), after);
  }
  async #look(): Promise<void> {
    if (!document.hidden) await this.#read();
    if (this.#comes) this.#lookAgain(EVERY);
    else if (this.#watchers > 0) this.#lookAgain(EVERY_WHILE_NOTHING_COMES);
  }
  async #read(): Promise<void> {
    let now: readonly api.PullUnderWay[];
    try {
      now = await api.pulling();
    } catch {
      return; // whoever does something is told why it cannot be done
    }
    const before = this.#all;
    this.#all = now;
    if (before.some((each) => each.state === "going" && !stillComes(each, now))) {
      await Promise.all([models.readAll(), plan.read()]);
    }
  }
  /** Also: go on with one that was stopped or has failed. */
  async begin(name: string): Promise<void> {
    await notices.attempt(async () => void (await api.pull(name)));
    await this.#read();
    this.#lookAgain(EVERY);
  }
  async stop(pull: api.PullUnderWay): Promise<void> {
    await notices.attempt(() => api.stopPull(pull.model));
    await this.#read();
  }
}

const stillComes = (pull: api.PullUnderWay, now: readonly api.PullUnderWay[]): boolean =>
  now.some(({ model, state }) => model === pull.model && state === "going");

export const pulls = new Pulls();
