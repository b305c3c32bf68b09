/** API keys: issuing, listing and revoking them, and what each has used. */

import { get, order, send } from "./http";
import type { components } from "./schema";

type Schemas = components["schemas"];
export type NewKey = Schemas["NewKey"];
export type KeyDescribed = Schemas["KeyDescribed"];
export type KeyIssued = Schemas["KeyIssued"];
export type KeyUse = Schemas["KeyUse"];

export async function all(): Promise<readonly KeyDescribed[]> {
  return (await get<Schemas["KeyList"]>("/freehold/v1/keys")).data;
}

/** Of each key that was used in the last `days`. */
export async function usage(days: number): Promise<readonly KeyUse[]> {
  return (await get<Schemas["UsageList"]>(`/freehold/v1/keys/usage?days=${days}`)).data;
}

export const create = (wanted: NewKey): Promise<KeyIssued> =>
  send("POST", "/freehold/v1/keys", wanted);

export const revoke = (name: string): Promise<void> =>
  order("DELETE", `/freehold/v1/keys/${encodeURIComponent(name)}`);
