/** @file What members say to each other over control streams: signs of life, the agreement on views, and a few words about the run. */
import * as z from "zod";
import { NODES_MAX } from "../core/agreement.ts";
import { announcementBodySchema } from "./messages.ts";
import { candidateSchema, count, hex, lossSchema, ringViewSchema, shortText, version } from "./schemas.ts";

/** Names in one question; what is lacking beyond is asked for later. */
export const NEWS_NAMES_MAX = 64;

/** Of a peer to which a node opens a control stream, or which opens one. */
export const memberHelloSchema = z.strictObject({
  kind: z.literal("member"),
  job: hex,
  incarnation: hex,
  boot: count,
  /** Of one whom the ring does not know yet. */
  invite: shortText.nullable(),
});

export const memberAnswerSchema = z.strictObject({ boot: count });

const nodesSchema = z.array(count).max(NODES_MAX).readonly();

const evidenceSchema = z.strictObject({
  bound: version.nullable(),
  committed: version,
  losses: z.array(lossSchema).max(64).readonly(),
  held: z
    .array(
      z
        .array(z.strictObject({ version: count, digest: hex }))
        .max(4)
        .readonly(),
    )
    .max(1000)
    .readonly(),
  severed: nodesSchema,
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
  z.strictObject({ kind: z.literal("ready"), isAnswer: z.boolean(), known: nodesSchema }),
  z.strictObject({ kind: z.literal("unready"), nodes: nodesSchema }),
  z.strictObject({
    kind: z.literal("join"),
    candidate: candidateSchema,
    heardBy: nodesSchema,
  }),
  z.strictObject({ kind: z.literal("heard") }),
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
  /** The sender has yet to install `view`: so much of it has come so far. */
  z.strictObject({ say: z.literal("installing"), view: count, progress: count }),
  /** Is `view` still yours? From a process that stood still, as often as `sleep` says; the answer names the same. */
  z.strictObject({ say: z.literal("confirm"), view: count, sleep: count }),
  z.strictObject({ say: z.literal("confirmed"), view: count, sleep: count }),
  /** The losses of the steps from `from` on, as far as they are committed. */
  z.strictObject({ say: z.literal("askLosses"), from: count }),
  z.strictObject({ say: z.literal("losses"), from: count, losses: z.array(z.number()).max(2000).readonly() }),
  /** For all: see `Announcement`. */
  z.strictObject({ say: z.literal("announce"), view: count, body: announcementBodySchema }),
  /** What was announced in `view` under these names and has not come: whoever has it says it again, to the sender alone. */
  z.strictObject({ say: z.literal("askNews"), view: count, names: z.array(shortText).max(NEWS_NAMES_MAX).readonly() }),
  /** The user wants the run to end after the step under way. */
  z.strictObject({ say: z.literal("stop") }),
  /** The sender has the reports of all members of `view`: it ends when all have. */
  z.strictObject({ say: z.literal("complete"), view: count }),
  /** All members of `last` have reported, after so many steps: who is outside the ring, or in a later view, ends as they did. */
  z.strictObject({ say: z.literal("ended"), last: ringViewSchema, completedSteps: count }),
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
