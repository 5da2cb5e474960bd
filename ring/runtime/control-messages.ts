/** @file What members say to each other over control streams: signs of life, the agreement on views, and a few words about the run. */
import * as z from "zod";
import { candidateSchema, count, failureSchema, hex, rangeSchema } from "./messages.ts";

/** Of a peer to which a node opens a control stream, or which opens one. */
export const memberHelloSchema = z.strictObject({
  kind: z.literal("member"),
  job: hex,
  incarnation: hex,
  boot: count,
});

export const memberAnswerSchema = z.strictObject({ boot: count });

const nodes = z.array(count).max(1024).readonly();
const version = z.int().min(-1);
const loss = z.strictObject({ step: count, loss: z.number() });
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
  losses: z.array(loss).max(64).readonly(),
  removed: z
    .array(z.strictObject({ node: count, cause: z.enum(["closed", "silent", "left"]) }))
    .max(1024)
    .readonly(),
});

const evidenceSchema = z.strictObject({
  bound: version.nullable(),
  committed: version,
  losses: z.array(loss).max(64).readonly(),
  held: z
    .array(
      z
        .array(z.strictObject({ version: count, digest: hex }))
        .max(4)
        .readonly(),
    )
    .max(1000)
    .readonly(),
});

const acceptedSchema = z.strictObject({ ballot: count, value: ringViewSchema });
export const voteSchema = z.strictObject({ promised: count, accepted: acceptedSchema.nullable() });

const membershipSchema = z.discriminatedUnion("kind", [
  z.strictObject({ kind: z.literal("prepare"), ballot: count }),
  z.strictObject({
    kind: z.literal("promise"),
    ballot: count,
    accepted: acceptedSchema.nullable(),
    evidence: evidenceSchema,
  }),
  z.strictObject({ kind: z.literal("refused"), ballot: count, promised: count }),
  z.strictObject({ kind: z.literal("accept"), ballot: count, value: ringViewSchema }),
  z.strictObject({ kind: z.literal("accepted"), ballot: count }),
  z.strictObject({ kind: z.literal("decided"), value: ringViewSchema }),
  z.strictObject({ kind: z.literal("ready"), isAnswer: z.boolean() }),
  z.strictObject({ kind: z.literal("join"), candidate: candidateSchema }),
  z.strictObject({ kind: z.literal("leave") }),
  z.strictObject({ kind: z.literal("behind") }),
]);

export const controlSchema = z.discriminatedUnion("say", [
  z.strictObject({ say: z.literal("alive") }),
  z.strictObject({ say: z.literal("membership"), view: count, message: membershipSchema }),
  /** Is `node` alive, as seen from where you are? */
  z.strictObject({ say: z.literal("probe"), node: count }),
  z.strictObject({ say: z.literal("probed"), node: count, alive: z.boolean() }),
  z.strictObject({ say: z.literal("accuse"), node: count }),
  /** The losses of the steps from `from` on, as far as they are committed. */
  z.strictObject({ say: z.literal("askLosses"), from: count }),
  z.strictObject({ say: z.literal("losses"), from: count, losses: z.array(z.number()).max(2000).readonly() }),
  /** Why the run ends for all. */
  z.strictObject({ say: z.literal("failure"), failure: failureSchema }),
  /** The user wants the run to end after the step under way. */
  z.strictObject({ say: z.literal("stop") }),
  /** The sender has the reports of all members of `view`: it ends when all have. */
  z.strictObject({ say: z.literal("complete"), view: count }),
]);
export type ControlMessage = z.infer<typeof controlSchema>;
export type MembershipWord = Extract<ControlMessage, { say: "membership" }>;

/** A stream for the gradients of `owner`'s layers, to a node that keeps a copy of them; and one for layers as they stand. */
export const replicaHelloSchema = z.discriminatedUnion("kind", [
  z.strictObject({ kind: z.literal("follow"), job: hex, view: count, owner: count }),
  z.strictObject({
    kind: z.literal("fetch"),
    job: hex,
    version: count,
    layers: z.array(count).min(1).max(1000).readonly(),
  }),
]);

/** What a replica holds, by layer: the answer to a step's gradient, or the first word when the copies are whole. */
export const appliedSchema = z.strictObject({ version: count, digests: z.array(hex).max(1000).readonly() });
