/** What went wrong, in one sentence, until it is dismissed. */

import { Problem } from "../api/http";
import { access } from "./access.svelte";
import { words } from "./appearance.svelte";

class Notices {
  #latest = $state<string | null>(null);

  get latest(): string | null {
    return this.#latest;
  }
  dismiss(): void {
    this.#latest = null;
  }
  say(sentence: string): void {
    this.#latest = sentence;
  }
  /** Do something; what it cannot do is said. */
  async attempt(work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      if (!access.refusedBy(error)) this.say(sentence(error));
    }
  }
}

export function sentence(error: unknown): string {
  if (error instanceof Problem && error.status === 0) return words().unreachable;
  return error instanceof Error ? error.message : String(error);
}

export const notices = new Notices();
