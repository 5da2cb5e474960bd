/** @file Values that peers' messages are made of. All of it comes from peers, so all of it is checked before it is used. */
import * as z from "zod";

export const shortText = z.string().max(512);
export const count = z
  .int()
  .min(0)
  .max(2 ** 31);
export const hex = z.string().regex(/^[0-9a-f]{1,128}$/);

/** Layers `[start, end)`. */
export const rangeSchema = z.tuple([count, count]).readonly();

export const candidateSchema = z.strictObject({
  peerId: shortText,
  addresses: z.array(shortText).max(16).readonly(),
  machine: shortText,
  incarnation: hex,
  boot: count,
  engines: z.array(shortText).min(1).max(8).readonly(),
  wish: count.nullable(),
});

const nodes = z.array(count).max(1024).readonly();
/** -1: none. */
export const version = z.int().min(-1);
export const lossSchema = z.strictObject({ step: count, loss: z.number() });
const memberSchema = candidateSchema.extend({ node: count });

export const ringViewSchema = z.strictObject({
  view: count,
  members: z.array(memberSchema).min(1).max(1024).readonly(),
  departed: z.array(memberSchema).max(1024).readonly(),
  voters: nodes,
  owners: nodes,
  cut: z.array(rangeSchema).min(1).max(1024).readonly(),
  replicas: count,
  restoreStep: count,
  sources: z
    .array(z.strictObject({ holders: nodes, digest: hex }))
    .max(1000)
    .readonly(),
  losses: z.array(lossSchema).max(64).readonly(),
  removed: z
    .array(z.strictObject({ node: count, cause: z.enum(["closed", "silent", "left"]) }))
    .max(1024)
    .readonly(),
});
