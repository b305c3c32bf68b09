/** The models that can be asked for, and those that can be fetched. */

import * as api from "../api/models";
import { words } from "./appearance.svelte";
import { notices } from "./notices.svelte";

const EVERY = 1000;

class Models {
  #here = $state.raw<readonly api.Model[]>([]);
  #catalogue = $state.raw<readonly api.CatalogueModel[]>([]);
  #inMemory = $state.raw<ReadonlyMap<string, api.InMemory>>(new Map());
  #disk = $state.raw<api.Disk | null>(null);
  #known = $state(false);

  get here(): readonly api.Model[] {
    return this.#here;
  }
  get catalogue(): readonly api.CatalogueModel[] {
    return this.#catalogue;
  }
  /** What is in memory, or on its way there. */
  inMemory(name: string): api.InMemory | null {
    return this.#inMemory.get(name) ?? null;
  }
  /** Where what one asks a model is sent, if it leaves this machine. */
  leavesFor(name: string | null): string | null {
    const there = this.#here.find(({ id }) => id === name)?.freehold.upstream;
    return there?.leaves_machine ? there.hosts.join(", ") : null;
  }
  /** Those that nobody has chosen yet are taken from: what leaves this machine comes last. */
  get usual(): readonly string[] {
    const names = this.#here.map(({ id }) => id);
    const leaving = (name: string): boolean => this.leavesFor(name) !== null;
    return [...names.filter((name) => !leaving(name)), ...names.filter(leaving)];
  }
  /** The name as it stands in lists to choose from. */
  label(name: string): string {
    const hosts = this.leavesFor(name);
    return hosts === null ? name : `${name} · ${words().leaves(hosts)}`;
  }
  get disk(): api.Disk | null {
    return this.#disk;
  }
  /** Whether `here` has been read: before, an empty list means nothing. */
  get known(): boolean {
    return this.#known;
  }
  async read(): Promise<void> {
    await notices.attempt(async () => {
      const [here, inMemory] = await Promise.all([api.here(), api.inMemory()]);
      this.#here = here;
      this.#inMemory = new Map(inMemory.map((each) => [each.model, each]));
      this.#known = true;
    });
  }
  async readAll(): Promise<void> {
    await this.read();
    await notices.attempt(async () => {
      [this.#catalogue, this.#disk] = await Promise.all([api.catalogue(), api.disk()]);
    });
  }
  /** Read what is in memory every second until what is returned is called. */
  watch(): () => void {
    const timer = setInterval(() => void this.#readMemory(), EVERY);
    return () => clearInterval(timer);
  }
  async #readMemory(): Promise<void> {
    try {
      this.#inMemory = new Map((await api.inMemory()).map((each) => [each.model, each]));
    } catch {
      // whoever waits for something is told why it does not come
    }
  }
  async load(name: string): Promise<void> {
    await notices.attempt(async () => void (await api.load(name)));
    await this.read();
  }
  async unload(name: string): Promise<void> {
    await notices.attempt(async () => {
      if ((await api.unload(name)).left !== null) notices.say(words().stillUsed(name));
    });
    await this.read();
  }
  async pin(name: string, pinned: boolean): Promise<void> {
    await notices.attempt(async () => void (await api.pin(name, pinned)));
    await this.read();
  }
  async remove(name: string): Promise<void> {
    await notices.attempt(() => api.remove(name));
    await this.readAll();
  }
}

export const models = new Models();
