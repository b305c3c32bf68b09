/** Searching for the format and settings that run a model fastest on this machine. */

import { get, order, send } from "./http";
import type { components } from "./schema";

type Schemas = components["schemas"];
export type TuneRequest = Schemas["TuneRequest"];
export type Search = Schemas["SearchShown"];
export type Tuning = Schemas["TuningShown"];
export type TunedPoint = Schemas["PointShown"];
export type TuningResult = Schemas["TuningResult"];

export async function search(): Promise<Search | null> {
  return (await get<Schemas["TuningState"]>("/freehold/v1/tuning")).search;
}

/** Goes on with a search that was stopped. */
export const begin = (wanted: TuneRequest): Promise<Search> =>
  send("POST", "/freehold/v1/tuning", wanted);

export const stop = (): Promise<void> => order("DELETE", "/freehold/v1/tuning");

export const result = (model: string): Promise<TuningResult> =>
  get(`/freehold/v1/tuning/result?model=${encodeURIComponent(model)}`);
