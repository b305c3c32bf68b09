/** What the server is doing, and ending what it does. */

import { get, order } from "./http";
import type { components } from "./schema";

type Schemas = components["schemas"];
export type Activity = Schemas["Activity"];
export type ModelActivity = Schemas["ModelActivity"];
export type RequestUnderWay = Schemas["RequestUnderWay"];

export const activity = (): Promise<Activity> => get("/freehold/v1/activity");
export const stop = (id: string): Promise<void> => order("DELETE", `/freehold/v1/activity/${id}`);
