/**
 * @file What nodes of a ring say to each other in JSON: joining, agreeing on the view, and what goes round the ring. All of it
 * comes from peers, so all of it is checked before it is used.
 */
import * as z from "zod";
import { ProtocolError } from "../../src/types/errors.ts";
import { stepIndex } from "../../src/types/ids.ts";
import { settingsSchema } from "../../src/config/settings.ts";
import { candidateSchema, count, hex, ringViewSchema, shortText } from "./schemas.ts";

/** A node tells no more of them in its report, the newest: it is one message of a control stream. `events.jsonl` has all. */
export const RECOVERIES_MAX = 512;

export const joinHelloSchema = z.strictObject({
  kind: z.literal("join"),
  build: shortText,
  invite: shortText.nullable(),
  /** Settings that the joining user stated: they must be the job's. */
  expected: z.record(shortText, z.union([shortText, z.number(), z.boolean(), z.null()])),
  candidate: candidateSchema,
});

export const joinAnswerSchema = z.discriminatedUnion("kind", [
  z.strictObject({
    kind: z.literal("welcome"),
    job: hex,
    present: count,
    size: count,
    founder: z.array(shortText).min(1).max(16).readonly(),
  }),
  /** The ring trains: what it is comes over the stream. */
  z.strictObject({ kind: z.literal("running"), job: hex }),
  z.strictObject({ kind: z.literal("redirect"), addresses: z.array(shortText).min(1).max(16).readonly() }),
]);
export type Welcome = Extract<z.infer<typeof joinAnswerSchema>, { kind: "welcome" }>;

/** What a node must know of the job to hold a stage of it. */
export const jobSchema = z.strictObject({
  job: hex,
  settings: settingsSchema,
  dataSha256: hex,
  /** Samples of the test set; 0 for none. */
  testCount: count,
  /** Steps that the checkpoint holds which the run goes on from; 0 for a fresh start. */
  firstStep: count,
});
export type Job = z.infer<typeof jobSchema>;

const layerCostsSchema = z.array(z.int().min(1)).min(1).max(1000).readonly();

const viewSchema = z.strictObject({
  view: count,
  members: z
    .array(candidateSchema.extend({ node: count }))
    .min(1)
    .max(1024)
    .readonly(),
  layerCosts: layerCostsSchema,
  engine: shortText,
});

export const formationSchema = z.discriminatedUnion("kind", [
  z.strictObject({ kind: z.literal("propose"), job: jobSchema, view: viewSchema }),
  z.strictObject({ kind: z.literal("accepted"), digest: z.string().max(1_000_000) }),
  z.strictObject({ kind: z.literal("decided") }),
  /** To who comes when the ring trains. */
  z.strictObject({
    kind: z.literal("running"),
    job: jobSchema,
    layerCosts: layerCostsSchema,
    engine: shortText,
    view: ringViewSchema,
  }),
]);
export type FormationMessage = z.infer<typeof formationSchema>;

export const edgeHelloSchema = z.strictObject({
  kind: z.literal("edge"),
  job: hex,
  view: count,
  direction: z.enum(["forward", "backward"]),
});
export type EdgeDirection = z.infer<typeof edgeHelloSchema>["direction"];

/** Small words between neighbours that belong to no tensor. */
export const wordSchema = z.discriminatedUnion("say", [
  z.strictObject({ say: z.literal("end"), lastStep: count }),
  z.strictObject({ say: z.literal("stop") }),
  z.strictObject({ say: z.literal("evaluationCredit"), lap: count }),
  /** Places of the predecessor's `lap`: all of them when a plan opens, else those that are free again. */
  z.strictObject({ say: z.literal("credits"), lap: count, credits: count, opensPlan: count.nullable() }),
]);
export type Word = z.infer<typeof wordSchema>;

const split = z.strictObject({
  computeMs: z.number(),
  communicationMs: z.number(),
  runQueueMs: z.number(),
  waitMs: z.number(),
});
const digests = z.record(z.string().regex(/^\d{1,4}$/), hex);

const reportSchema = z.strictObject({
  node: count,
  peerId: shortText,
  role: shortText,
  layers: z
    .array(z.tuple([count, count]).readonly())
    .max(64)
    .readonly(),
  parameters: z.number(),
  times: split,
  steadyTimes: split,
  communicationCpuMs: z.number(),
  bytesSent: z.number(),
  bytesReceived: z.number(),
  messagesSent: z.number(),
  neighbours: count,
  peakRssBytes: z.number(),
  stepMsMedian: z.number(),
  layerDigests: digests,
  initialLayerDigests: digests,
  costs: z.strictObject({
    laps: z
      .array(z.strictObject({ forward: z.number(), backward: z.number(), weight: z.number() }))
      .max(64)
      .readonly(),
    update: z.number(),
  }),
  pace: z.strictObject({ paced: count, missed: count, worstRatio: z.number() }).nullable(),
  link: z.strictObject({ sent: count, late: count, worstLateMs: z.number() }).nullable(),
});

const layerRangeSchema = z.tuple([count, count]).readonly();

const shardSchema = z.strictObject({
  layers: layerRangeSchema,
  file: z.string().regex(/^\d{1,4}-\d{1,4}\.[0-9a-f]{16}\.safetensors$/),
  sha256: hex,
  sizeBytes: count,
});

/** Why a run ends before its last step, in words for every node. */
export const failureSchema = z.discriminatedUnion("kind", [
  z.strictObject({ kind: z.literal("lost"), node: count, step: count }),
  /** More nodes are gone than there were copies. */
  z.strictObject({ kind: z.literal("segmentsLost"), layers: z.array(count).max(1000).readonly(), step: count }),
  z.strictObject({ kind: z.literal("notFinite"), node: count, step: count, layer: count }),
  z.strictObject({ kind: z.literal("error"), node: count, message: z.string().max(2000) }),
]);
export type Failure = z.infer<typeof failureSchema>;

/** What one node saw of a view that went on without another. */
const recoverySchema = z.strictObject({
  cause: z.enum(["closed", "silent", "left"]),
  node: count,
  step: count,
  view: count,
  detectedMs: z.number(),
  resumedMs: z.number().nullable(),
  recomputedSteps: count,
});

export const announcementBodySchema = z.discriminatedUnion("kind", [
  z.strictObject({ kind: z.literal("saved"), step: count, shard: shardSchema }),
  z.strictObject({ kind: z.literal("notSaved"), step: count, layers: layerRangeSchema, reason: z.string().max(2000) }),
  z.strictObject({ kind: z.literal("evaluated"), step: count, correct: count, lossSum: z.number() }),
  z.strictObject({
    kind: z.literal("report"),
    completedSteps: count,
    report: reportSchema,
    recoveries: z.array(recoverySchema).max(RECOVERIES_MAX).readonly(),
  }),
  z.strictObject({ kind: z.literal("failure"), failure: failureSchema }),
]);

/** What one node tells all others, once round the ring (a failure: both ways, since the ring may be open). */
export const announcementSchema = z.strictObject({ origin: count, body: announcementBodySchema });
export type Announcement = z.infer<typeof announcementSchema>;
export type AnnouncementBody = Announcement["body"];

const measurementSchema = z.strictObject({
  node: count,
  layers: z
    .array(z.strictObject({ layer: count, us: count }))
    .max(1000)
    .readonly(),
  capBytes: z.int().min(1).nullable(),
});
const plan = { view: count, plan: count, measurements: z.array(measurementSchema).max(1024).readonly() };

/** What goes round the ring: an announcement for all, or the balance token for the next. */
export const roundSchema = z.union([
  announcementSchema,
  z.strictObject({
    balance: z.discriminatedUnion("kind", [
      z.strictObject({ kind: z.literal("collect"), ...plan }),
      z.strictObject({ kind: z.literal("decide"), step: count.transform(stepIndex), ...plan }),
    ]),
  }),
]);

/** The value of a peer's JSON. Throws ProtocolError where it is not of the schema. */
export function parseMessage<Schema extends z.ZodType>(schema: Schema, bytes: Uint8Array): z.infer<Schema> {
  let value: unknown;
  try {
    value = JSON.parse(Buffer.from(bytes).toString("utf8"));
  } catch {
    throw new ProtocolError("a message is not JSON", "run the same build on every node");
  }
  return checkMessage(schema, value);
}

export function checkMessage<Schema extends z.ZodType>(schema: Schema, value: unknown): z.infer<Schema> {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const [issue] = result.error.issues;
  throw new ProtocolError(
    ["a message is malformed:", issue?.path.join("."), issue?.message].filter((part) => part !== "").join(" "),
    "run the same build on every node",
  );
}

export function encodeMessage(value: unknown): Uint8Array {
  return Buffer.from(JSON.stringify(value), "utf8");
}
