/** A conversation is a tree: each message has one parent, and siblings are other tries. */

export interface Node {
  readonly id: string;
  readonly parent: string | null;
}

/** From the first message down to `leaf`; down to the latest where there is no leaf. */
export function branch<T extends Node>(messages: readonly T[], leaf: string | null): T[] {
  const known = new Map(messages.map((message) => [message.id, message]));
  const found: T[] = [];
  let at = leaf === null ? messages.at(-1) : known.get(leaf);
  while (at !== undefined) {
    found.push(at);
    at = at.parent === null ? undefined : known.get(at.parent);
  }
  return found.reverse();
}

/** The other tries at each place, under the parent they share. */
export function byParent<T extends Node>(messages: readonly T[]): Map<string | null, T[]> {
  const found = new Map<string | null, T[]>();
  for (const message of messages) {
    const tries = found.get(message.parent);
    if (tries) tries.push(message);
    else found.set(message.parent, [message]);
  }
  return found;
}

/** The end of the branch that goes through `id`, by the latest message at every fork. */
export function leafUnder(messages: readonly Node[], id: string): string {
  let leaf = id;
  // Parents come before their children, so one walk reaches the end.
  const latest = new Map<string, string>();
  for (const message of messages) if (message.parent !== null) latest.set(message.parent, message.id);
  for (let next = latest.get(leaf); next !== undefined; next = latest.get(leaf)) leaf = next;
  return leaf;
}
