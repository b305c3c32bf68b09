/** The fetching of models. It ends with the page; the next one goes on from there. */

import { pull } from "../api/models";
import { models } from "./models.svelte";
import { complaint, type Complaint } from "./notices.svelte";
import { plan } from "./plan.svelte";

export class Pull {
  /** Checking what came: the fetching is over. */
  checking = $state(false);
  error = $state.raw<Complaint | null>(null);
  completed = $state(0);
  total = $state<number | null>(null);
  state = $state<"going" | "paused" | "failed" | "done">("going");
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
      this.state = "done";
      await Promise.all([models.readAll(), plan.read()]);
    } catch (error) {
      if (this.#stopping.signal.aborted) this.state = "paused";
      else {
        this.state = "failed";
        this.error = complaint(error);
      }
    }
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
    const going = this.#all.find((each) => each.name === name);
    if (going === undefined) this.#all = [...this.#all, new Pull(name)];
    else if (going.state !== "going") going.goOn();
  }
}

export const pulls = new Pulls();
