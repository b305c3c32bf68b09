/** One answer through the chat completions route, as it comes. */

import { events, problem } from "./http";

export interface Setting {
  readonly model: string;
  readonly temperature: number | null;
}

export interface Usage {
  readonly prompt_tokens: number;
  readonly completion_tokens: number;
}

interface Chunk {
  readonly choices: readonly {
    readonly delta: { readonly content?: string; readonly reasoning_content?: string };
    readonly timings?: { readonly decode: number };
  }[];
  readonly usage?: Usage;
}

export type Part =
  | { readonly kind: "content" | "reasoning"; readonly text: string }
  | { readonly kind: "timings"; readonly decode: number }
  | { readonly kind: "usage"; readonly usage: Usage };

export async function* stream(
  setting: Setting,
  content: string,
  signal: AbortSignal,
): AsyncGenerator<Part> {
  const body = {
    model: setting.model,
    messages: [{ role: "user", content }],
    ...(setting.temperature === null ? {} : { temperature: setting.temperature }),
    stream: true,
    stream_options: { include_usage: true },
  };
  for await (const data of events("/v1/chat/completions", signal, body)) {
    if (data === "[DONE]") return;
    const failed = problem(500, data);
    if (failed !== null) throw failed;
    yield* parts(JSON.parse(data) as Chunk);
  }
}

function* parts(chunk: Chunk): Generator<Part> {
  for (const { delta, timings } of chunk.choices) {
    if (delta.reasoning_content) yield { kind: "reasoning", text: delta.reasoning_content };
    if (delta.content) yield { kind: "content", text: delta.content };
    if (timings) yield { kind: "timings", decode: timings.decode };
  }
  if (chunk.usage) yield { kind: "usage", usage: chunk.usage };
}
