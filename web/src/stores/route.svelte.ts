/** Where in the page one is: `#/chat`, `#/chat/ID`, `#/compare` and so on. */

export const SECTIONS = ["chat", "compare", "models", "activity", "keys"] as const;
export type Section = (typeof SECTIONS)[number];

class Route {
  #hash = $state(location.hash);

  constructor() {
    addEventListener("hashchange", () => (this.#hash = location.hash));
  }
  get section(): Section {
    const name = this.#hash.split("/")[1];
    return SECTIONS.find((section) => section === name) ?? "chat";
  }
  /** Of the conversation shown, if one is. */
  get conversation(): string | null {
    return this.section === "chat" ? (this.#hash.split("/")[2] ?? null) : null;
  }
  /** To a conversation that has just been begun here: going back does not lead out of it. */
  replace(conversation: string): void {
    history.replaceState(null, "", addressOf(conversation));
    this.#hash = location.hash;
  }
  go(conversation: string | null): void {
    location.hash = addressOf(conversation);
  }
}

export const addressOf = (conversation: string | null): string =>
  conversation === null ? "#/chat" : `#/chat/${conversation}`;

export const route = new Route();
