/** The fetching of models. It ends with the page; the next one goes on from there. */

import { pull, pulling } from "../api/models";
import { models } from "./models.svelte";
import { complaint, notices, type Complaint } from "./notices.svelte";
import { plan } from "./plan.svelte";

const EVERY = 100;

export class Pull {
  /** Checking what came: the fetching is over. */
  checking = $state(false);
  error = $state.raw<Complaint | null>(null);
  completed = $state(0);
  total = $state<number | null>(null);
  /** `pausing`: the server has not heard of it yet, and the rest may come all the same. */
  state = $state<"going" | "pausing" | "paused" | "failed" | "done">("going");
  #stopping = new AbortController();

  constructor(readonly name: string) {
    void this.#go();
  }
  async #go(): Promise<void> {
    try {
      for await (const told of pull(this.name, this.#stopping.signal)) {
        this.checking = !told.status.startsWith("pulling");
        if (told.total) {
          this.total = told.total;
          this.completed = told.completed ?? 0;
        }
      }
      await this.#arrived();
    } catch (error) {
      if (this.#stopping.signal.aborted) await this.#paused();
      else {
        this.state = "failed";
        this.error = complaint(error);
      }
    }
  }
  async #arrived(): Promise<void> {
    this.state = "done";
    await Promise.all([models.readAll(), plan.read()]);
  }
  /** Wait until the server has heard that nobody waits for it, or has fetched all of it before. */
  async #paused(): Promise<void> {
    this.state = "pausing";
    let there = false;
    await notices.attempt(async () => {
      while ((await pulling()).some(({ model, stopping }) => model === this.name && !stopping)) {
        await new Promise((over) => setTimeout(over, EVERY));
      }
      await models.read();
      there = models.here.some(({ id }) => id === this.name);
    });
    if (there) await this.#arrived();
    else this.state = "paused";
  }
  pause(): void {
    this.#stopping.abort();
  }
  goOn(): void {
    this.#stopping = new AbortController();
    this.state = "going";
    this.error = null;
    void this.#go();
  }
}

class Pulls {
  #all = $state.raw<readonly Pull[]>([]);

  get all(): readonly Pull[] {
    return this.#all;
  }
  /** One that does not go on by itself; what has come of it is kept. */
  dismiss(pull: Pull): void {
    this.#all = this.#all.filter((each) => each !== pull);
  }
  begin(name: string): void {
    const running = this.#all.find((each) => each.name === name);
    if (running === undefined) this.#all = [...this.#all, new Pull(name)];
    else if (running.state !== "going" && running.state !== "pausing") running.goOn();
  }
}

export const pulls = new Pulls();
