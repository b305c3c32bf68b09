/** Talking to the server this page came from, and to nobody else. */

import type { ErrorValues } from "../pure/filling";

/** What the server said no to, in its own words; `status` 0: it could not be reached. */
export class Problem extends Error {
  constructor(
    readonly status: number,
    message: string,
    readonly code = "",
    readonly values: ErrorValues = {},
  ) {
    super(message);
  }
}

async function answered(path: string, init: RequestInit): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(path, init);
  } catch (error) {
    if (init.signal?.aborted) throw error;
    throw new Problem(0, "");
  }
  if (response.ok) return response;
  const { status, statusText } = response;
  throw problem(status, await response.text()) ?? new Problem(status, statusText);
}

interface Told {
  readonly message?: string;
  readonly code?: string;
  readonly values?: ErrorValues;
}
const asProblem = (status: number, message: string, { code, values }: Told): Problem =>
  new Problem(status, message, code, values);

/** What an error body of either dialect says; null: it is none. */
export function problem(status: number, body: string): Problem | null {
  try {
    const parsed = JSON.parse(body) as Partial<Told & { error: string | Told }> | null;
    const error = parsed?.error;
    if (typeof error === "string") return asProblem(status, error, parsed ?? {});
    if (typeof error === "object" && error?.message) return asProblem(status, error.message, error);
  } catch {
    // no JSON
  }
  return null;
}

function withBody(method: string, body: unknown): RequestInit {
  return { method, headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
}

export async function get<T>(path: string): Promise<T> {
  return (await (await answered(path, {})).json()) as T;
}

export async function send<T>(method: "POST" | "PATCH", path: string, body: unknown): Promise<T> {
  return (await (await answered(path, withBody(method, body))).json()) as T;
}

/** For routes that answer with nothing. */
export async function order(method: "DELETE" | "POST", path: string, body?: unknown): Promise<void> {
  await answered(path, body === undefined ? { method } : withBody(method, body));
}

/** The lines of a body, as they come. */
export async function* lines(
  path: string,
  signal: AbortSignal,
  body?: unknown,
): AsyncGenerator<string> {
  const init = body === undefined ? {} : withBody("POST", body);
  const response = await answered(path, { ...init, signal });
  const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    const found = (rest + value).split("\n");
    rest = found.pop() ?? "";
    yield* found;
  }
  if (rest) yield rest;
}

/** The data of server-sent events, each of one line, as this server writes them. */
export async function* events(
  path: string,
  signal: AbortSignal,
  body?: unknown,
): AsyncGenerator<string> {
  for await (const line of lines(path, signal, body)) {
    if (line.startsWith("data: ")) yield line.slice("data: ".length);
  }
}
