/** Whether this browser has been let in. The key itself stays in no script and no storage. */

import { Problem, order } from "../api/http";

class Access {
  #needed = $state(false);

  get needed(): boolean {
    return this.#needed;
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
