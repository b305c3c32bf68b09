/** What went wrong, in one sentence, until it is dismissed or one goes to another page. */

import { Problem } from "../api/http";
import type { ErrorValues } from "../pure/filling";
import { access } from "./access.svelte";
import { words } from "./appearance.svelte";

/** `code` null: in words of the page. Else `text` is the server's own, in English, and `values`
 * are what it is about. */
export interface Complaint {
  readonly text: string;
  readonly code: string | null;
  readonly values?: ErrorValues;
}

class Notices {
  #latest = $state.raw<Complaint | null>(null);

  get latest(): Complaint | null {
    return this.#latest;
  }
  dismiss(): void {
    this.#latest = null;
  }
  say(text: string): void {
    this.#latest = { text, code: null };
  }
  complain(error: unknown): void {
    this.#latest = complaint(error);
  }
  /** Do something; what it cannot do is said. */
  async attempt(work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      if (!access.refusedBy(error)) this.complain(error);
    }
  }
}

export function complaint(error: unknown): Complaint {
  if (!(error instanceof Problem)) return { text: String(error), code: "" };
  if (error.status === 0) return { text: words().unreachable, code: null };
  return { text: error.message, code: error.code, values: error.values };
}

export const notices = new Notices();
