/** The API keys of this server. The text of a new one is here until it is put away, nowhere else. */

import * as api from "../api/keys";
import { notices } from "./notices.svelte";

export const DAYS = 30;

class Keys {
  #all = $state.raw<readonly api.KeyDescribed[]>([]);
  #used = $state.raw<ReadonlyMap<string, api.KeyUse>>(new Map());
  #issued = $state.raw<api.KeyIssued | null>(null);

  /** Those that hold first, then the latest first. */
  get all(): readonly api.KeyDescribed[] {
    return this.#all;
  }
  get issued(): api.KeyIssued | null {
    return this.#issued;
  }
  /** What a key has used in the last `DAYS`. */
  used(id: string): api.KeyUse | null {
    return this.#used.get(id) ?? null;
  }
  async read(): Promise<void> {
    await notices.attempt(async () => {
      const [all, uses] = await Promise.all([api.all(), api.usage(DAYS)]);
      const held = (key: api.KeyDescribed): number => (key.state === "in use" ? 0 : 1);
      this.#all = [...all].reverse().sort((one, other) => held(one) - held(other));
      this.#used = new Map(uses.map((use) => [use.id, use]));
    });
  }
  /** Whether there is a new key. */
  async create(wanted: api.NewKey): Promise<boolean> {
    let made = false;
    await notices.attempt(async () => {
      this.#issued = await api.create(wanted);
      made = true;
    });
    await this.read();
    return made;
  }
  putAway(): void {
    this.#issued = null;
  }
  async revoke(name: string): Promise<void> {
    await notices.attempt(() => api.revoke(name));
    await this.read();
  }
}

export const keys = new Keys();
