/** Models: those here, those that could be, and what their papers say. */

import { get, order, send } from "./http";
import type { components } from "./schema";

type Schemas = components["schemas"];
export type Model = Schemas["Model"];
export type CatalogueModel = Schemas["CatalogueModel"];
export type Papers = Schemas["Papers"];
export type Ancestor = Schemas["Ancestor"];
export type Disk = Schemas["Disk"];

export async function here(): Promise<readonly Model[]> {
  return (await get<{ data: readonly Model[] }>("/v1/models")).data;
}

export async function catalogue(): Promise<readonly CatalogueModel[]> {
  return (await get<Schemas["Catalogue"]>("/freehold/v1/catalogue")).data;
}

const named = (model: string): string => `model=${encodeURIComponent(model)}`;

export const papers = (model: string): Promise<Papers> =>
  get(`/freehold/v1/papers?${named(model)}`);
export const lockAddress = (model: string): string => `/freehold/v1/papers/lock?${named(model)}`;
export const sbomAddress = (model: string): string => `/freehold/v1/papers/sbom?${named(model)}`;
export const disk = (): Promise<Disk> => get("/freehold/v1/disk");

export type PullUnderWay = Schemas["PullUnderWay"];

export async function pulling(): Promise<readonly PullUnderWay[]> {
  return (await get<Schemas["PullsUnderWay"]>("/freehold/v1/pulls")).pulls;
}

/** It goes on when the page is closed. */
export const pull = (model: string): Promise<PullUnderWay> =>
  send("POST", "/freehold/v1/pulls", { model });

/** What has come is kept; one that is over is no longer told of. */
export const stopPull = (model: string): Promise<void> =>
  order("DELETE", `/freehold/v1/pulls?${named(model)}`);

/** Answers when it is in memory. */
export const load = (model: string): Promise<Schemas["ModelInMemory"]> =>
  send("POST", "/freehold/v1/models/load", { model });

export type InMemory = Schemas["ModelInMemory"];

export async function inMemory(): Promise<readonly InMemory[]> {
  return (await get<Schemas["ModelsInMemory"]>("/freehold/v1/models/loaded")).models;
}

/** A pinned model stays in memory until it is unloaded. */
export const pin = (model: string, pinned: boolean): Promise<InMemory | null> =>
  send("POST", "/freehold/v1/models/pin", { model, pinned });

/** `left` is told where it is still in use, and leaves afterwards. */
export const unload = (model: string): Promise<Schemas["Unloaded"]> =>
  send("POST", "/freehold/v1/models/unload", { model });

/** Routes of Ollama's take bodies with DELETE. */
export const remove = (model: string): Promise<void> => order("DELETE", "/api/delete", { model });

export async function countTokens(model: string, content: string): Promise<number> {
  return (await send<Schemas["Tokens"]>("POST", "/tokenize", { model, content })).count;
}
