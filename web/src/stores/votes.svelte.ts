/** Votes on compared answers, in this browser: labels and winners, nothing that was said. */

import { readVotes, tally, type Standing, type Vote } from "../pure/tally";

const NAME = "votes";

class Votes {
  #all = $state.raw<readonly Vote[]>(stored());
  #standings = $derived(tally(this.#all));

  get standings(): readonly Standing[] {
    return this.#standings;
  }
  add(vote: Vote): void {
    this.#keep([...this.#all, vote]);
  }
  forget(): void {
    this.#keep([]);
  }
  #keep(votes: readonly Vote[]): void {
    this.#all = votes;
    try {
      localStorage.setItem(NAME, JSON.stringify(votes));
    } catch {
      // it holds until the page is left
    }
  }
}

function stored(): Vote[] {
  try {
    return readVotes(localStorage.getItem(NAME));
  } catch {
    return [];
  }
}

export const votes = new Votes();
