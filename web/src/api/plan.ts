/** What fits this machine, and how fast it should be. */

import { get } from "./http";
import type { components } from "./schema";

type Schemas = components["schemas"];
export type Plan = Schemas["PlanShown"];
export type PlannedModel = Schemas["PlannedModel"];

export interface Wishes {
  readonly users: number;
  /** Tokens each of them has; null: as it is set. */
  readonly context: number | null;
  readonly prompt: number;
}

export function plan({ users, context, prompt }: Wishes): Promise<Plan> {
  const wanted = new URLSearchParams({ users: String(users), prompt: String(prompt) });
  if (context !== null) wanted.set("context", String(context));
  return get(`/freehold/v1/plan?${wanted}`);
}
