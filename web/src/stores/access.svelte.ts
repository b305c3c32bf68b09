/** Whether this browser has been let in, and to what. The key itself stays in no script and no
 * storage. */

import { Problem, get, order } from "../api/http";
import type { components } from "../api/schema";

type Session = components["schemas"]["Session"];

const AGAIN = 2000;

class Access {
  #needed = $state(false);
  #session = $state.raw<Session | null>(null);

  get needed(): boolean {
    return this.#needed;
  }
  /** Whether keys, models and everybody's requests may be managed; null: not known yet. */
  get manages(): boolean | null {
    return this.#session && this.#session.scopes.includes("manage");
  }
  /** Asked until it is answered: what may be managed is not shown before. */
  async read(): Promise<void> {
    try {
      this.#session = await get<Session>("/freehold/v1/session");
    } catch (error) {
      // Entering a key loads the page again.
      const refused = this.refusedBy(error);
      const passing = error instanceof Problem && (error.status === 0 || error.status >= 500);
      if (!refused && passing) setTimeout(() => void this.read(), AGAIN);
    }
  }
  /** Whether an error says that a key is needed. */
  refusedBy(error: unknown): boolean {
    const refused = error instanceof Problem && error.status === 401;
    this.#needed ||= refused;
    return refused;
  }
  /** Exchange a key for a cookie; whether it was valid. */
  async enter(key: string): Promise<boolean> {
    try {
      await order("POST", "/freehold/v1/session", { key });
      location.reload();
      return true;
    } catch (error) {
      if (error instanceof Problem && error.status === 401) return false;
      throw error;
    }
  }
}

export const access = new Access();
