/** Several models, or settings of one, on the same prompts. Nothing of it is kept. */

import { stream, type Setting, type Usage } from "../api/chat";
import { complaint, type Complaint } from "./notices.svelte";
import { votes } from "./votes.svelte";

export const MOST = 4;
export const LEAST = 2;

export const labelOf = ({ model, temperature }: Setting): string =>
  temperature === null ? model : `${model}, ${temperature}`;

/** One answer while it comes. `firstToken` is in seconds, as this browser waited for it. */
export class Candidate {
  content = $state("");
  reasoning = $state("");
  firstToken = $state<number | null>(null);
  decode = $state<number | null>(null);
  usage = $state.raw<Usage | null>(null);
  state = $state<"running" | "done" | "stopped" | "failed">("running");
  error = $state.raw<Complaint | null>(null);

  constructor(readonly setting: Setting) {}

  get label(): string {
    return labelOf(this.setting);
  }
  async run(prompt: string, signal: AbortSignal): Promise<void> {
    const began = performance.now();
    const coming = { content: "", reasoning: "" };
    let due = false;
    const show = (): void => {
      due = false;
      this.content = coming.content;
      this.reasoning = coming.reasoning;
    };
    try {
      for await (const part of stream(this.setting, prompt, signal)) {
        if (part.kind === "timings") this.decode = part.decode;
        else if (part.kind === "usage") this.usage = part.usage;
        else {
          this.firstToken ??= (performance.now() - began) / 1000;
          coming[part.kind] += part.text;
          if (!due) requestAnimationFrame(show);
          due = true;
        }
      }
      this.state = "done";
    } catch (error) {
      this.state = signal.aborted ? "stopped" : "failed";
      this.error = signal.aborted ? null : complaint(error);
    }
    show();
  }
}

/** One prompt and its answers, in the order they are shown. */
export class Round {
  winner = $state<string | null>(null);
  voted = $state(false);

  constructor(
    readonly prompt: string,
    readonly candidates: readonly Candidate[],
    readonly blind: boolean,
  ) {}

  get over(): boolean {
    return this.candidates.every(({ state }) => state !== "running");
  }
  get namesShown(): boolean {
    return !this.blind || this.voted;
  }
  vote(winner: Candidate | null): void {
    if (this.voted) return;
    this.voted = true;
    this.winner = winner?.label ?? null;
    votes.add({ candidates: this.candidates.map(({ label }) => label), winner: this.winner });
  }
}

class Compare {
  #rounds = $state.raw<readonly Round[]>([]);
  #running = $state(false);
  #stopping = new AbortController();

  get rounds(): readonly Round[] {
    return this.#rounds;
  }
  get running(): boolean {
    return this.#running;
  }
  /** One prompt after the other, all candidates at once. */
  async run(prompts: readonly string[], settings: readonly Setting[], blind: boolean): Promise<void> {
    this.#stopping = new AbortController();
    const { signal } = this.#stopping;
    this.#running = true;
    for (const prompt of prompts) {
      if (signal.aborted) break;
      const candidates = settings.map((setting) => new Candidate(setting));
      const round = new Round(prompt, blind ? shuffled(candidates) : candidates, blind);
      this.#rounds = [round, ...this.#rounds];
      await Promise.all(candidates.map((candidate) => candidate.run(prompt, signal)));
    }
    this.#running = false;
  }
  stop(): void {
    this.#stopping.abort();
  }
  export(): string {
    const told = this.#rounds.toReversed().map(({ prompt, candidates, winner, voted }) => ({
      prompt,
      vote: voted ? { winner } : null,
      answers: candidates.map((each) => ({
        ...each.setting,
        content: each.content,
        reasoning: each.reasoning,
        state: each.state,
        error: each.error?.text ?? null,
        first_token: each.firstToken,
        decode: each.decode,
        usage: each.usage,
      })),
    }));
    return JSON.stringify(told, null, 2);
  }
}

/** Fisher and Yates, with numbers that no habit of a generator's gives away. */
function shuffled<T>(items: readonly T[]): T[] {
  const found = [...items];
  for (let last = found.length - 1; last > 0; last--) {
    const other = crypto.getRandomValues(new Uint32Array(1))[0]! % (last + 1);
    [found[last], found[other]] = [found[other]!, found[last]!];
  }
  return found;
}

export const compare = new Compare();
