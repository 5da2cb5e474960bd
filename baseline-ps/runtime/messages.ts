/** @file What the processes of a parameter server say to each other in JSON. All of it comes from peers, so all of it is checked. */
import * as z from "zod";
import { settingsSchema } from "../../src/config/settings.ts";
import type { NodeReport } from "../../src/metrics/summary.ts";
import { ProtocolError } from "../../src/types/errors.ts";

/** To the server manager: coming, the job, reports, the end. */
export const GROUP_PROTOCOL = "/ringtmp/control/ps/1";
/** To a manager that stood still, from those who have gone to another one. */
export const REPLACED = "another one is the manager now";
/** Between a worker and its task scheduler. */
export const TASKS_PROTOCOL = "/ringtmp/control/ps-tasks/1";
/** Between the task scheduler and who stands in for it. */
export const STANDBY_PROTOCOL = "/ringtmp/control/ps-standby/1";

const count = z.int().min(0);
const shortText = z.string().max(1024);
const hex = z.string().regex(/^[0-9a-f]{1,64}$/);

/** What a process does; one that is both a server and a worker comes twice. */
export const roleSchema = z.strictObject({
  kind: z.enum(["server", "worker", "scheduler", "standby", "data"]),
  index: count,
});
export type PsRole = z.infer<typeof roleSchema>;

export const memberHelloSchema = z.strictObject({
  build: shortText,
  role: roleSchema,
  peerId: shortText,
  addresses: z.array(shortText).min(1).max(16).readonly(),
  /** Engines that it offers. */
  engines: z.array(shortText).min(1).max(8).readonly(),
  /** It comes to a run that trains: which place it takes is the manager's to say. */
  joins: z.boolean(),
  /** It was in the run with a manager that is gone. */
  returns: z.boolean(),
});
export type MemberHello = z.infer<typeof memberHelloSchema>;

export const jobSchema = z.strictObject({
  job: hex,
  settings: settingsSchema,
  /** Id: kind and probe digest. */
  engine: shortText,
  dataSha256: hex,
  firstStep: count,
  members: z
    .array(memberHelloSchema.omit({ engines: true, build: true, joins: true, returns: true }))
    .min(3)
    .max(4096)
    .readonly(),
});
export type PsJob = z.infer<typeof jobSchema>;

const failureSchema = z.strictObject({
  kind: z.literal("failed"),
  name: shortText,
  message: z.string().max(4096),
  remedy: z.string().max(4096),
});

/** Who has what, and who lives; each view replaces those before it. */
export const viewSchema = z.strictObject({
  number: count,
  chains: z
    .array(z.strictObject({ epoch: count, servers: z.array(count).min(1).max(1024), isCopying: z.boolean() }))
    .max(65_536)
    .readonly(),
  workers: z.array(count).max(4096).readonly(),
  /** The standby is the task scheduler. */
  standsIn: z.boolean(),
  /** Servers that came after the job was given. */
  joined: z
    .array(memberHelloSchema.omit({ engines: true, build: true, joins: true, returns: true }))
    .max(1024)
    .readonly(),
});
export type PsView = z.infer<typeof viewSchema>;

/** From the manager to the others. */
export const orderSchema = z.discriminatedUnion("kind", [
  z.strictObject({ kind: z.literal("job"), job: jobSchema, role: roleSchema, view: viewSchema.nullable() }),
  /** Servers and scheduler can be dialled. */
  z.strictObject({ kind: z.literal("begin") }),
  /** Everybody who trains has ended: servers report. */
  z.strictObject({ kind: z.literal("finish") }),
  z.strictObject({ kind: z.literal("view"), view: viewSchema }),
  /** To be answered at once. */
  z.strictObject({ kind: z.literal("ping") }),
  /** Nothing is with this server any more. */
  z.strictObject({ kind: z.literal("free") }),
  failureSchema,
]);
export type Order = z.infer<typeof orderSchema>;

/** What a process tells of itself when it has nothing more to do. */
export interface MemberReport {
  readonly report: NodeReport | null;
  /** Of a worker, in bytes over the network: values alone. */
  readonly values?: { readonly pushedBytes: number; readonly pulledBytes: number };
  /** Other jobs that its process served meanwhile, of a server. */
  readonly sharedWith?: readonly string[];
  /** On links between workers and data servers; absent where there are none. */
  readonly dataBytesSent?: number;
  /** The run, of a scheduler. */
  readonly run: {
    readonly losses: readonly number[];
    readonly stepMs: number;
    /** Shares by the steps that their parameters lagged. */
    readonly lags: readonly number[];
    readonly testAccuracy: number | null;
    /** SHA-256 of each layer, hexadecimal, at the end. */
    readonly layerDigests: Readonly<Record<string, string>>;
  } | null;
}

/** From the others to the manager. Reports of the same build are taken as they are. */
export const wordSchema = z.discriminatedUnion("kind", [
  /** It can be dialled. */
  z.strictObject({ kind: z.literal("ready") }),
  /** A worker has all that it needs. */
  z.strictObject({ kind: z.literal("working") }),
  z.strictObject({ kind: z.literal("pong") }),
  /** What a manager that is gone may have taken with it. */
  z.strictObject({
    kind: z.literal("returned"),
    view: viewSchema.nullable(),
    report: z.custom<MemberReport>((value) => typeof value === "object").nullable(),
    copied: z.array(z.strictObject({ shard: count, epoch: count })).max(65_536),
  }),
  /** It wants to go, in order. */
  z.strictObject({ kind: z.literal("leaves") }),
  /** A server has its copy of a shard. */
  z.strictObject({ kind: z.literal("copied"), shard: count, epoch: count }),
  z.strictObject({ kind: z.literal("report"), report: z.custom<MemberReport>((value) => typeof value === "object") }),
  failureSchema,
]);
export type Word = z.infer<typeof wordSchema>;
export type Returned = Extract<Word, { kind: "returned" }>;

const trainSchema = z.strictObject({ kind: z.literal("train"), step: count, share: count, from: count, to: count });
const taskSchema = z.discriminatedUnion("kind", [
  trainSchema,
  z.strictObject({
    kind: z.literal("pause"),
    ...{ step: count, evaluates: z.boolean(), saves: z.boolean(), isLast: z.boolean() },
  }),
  z.strictObject({ kind: z.literal("end") }),
]);

/** From the scheduler to a worker. */
export const givenSchema = z.union([
  /** `heard`: what the worker said before need not be said again, whoever is the scheduler. */
  z.strictObject({ number: count, task: taskSchema, heard: count }),
  /** A share that it has not asked for, before all else. */
  z.strictObject({ extra: trainSchema }),
]);

/** From a worker to the scheduler. */
export const tellingSchema = z.discriminatedUnion("kind", [
  z.strictObject({ kind: z.literal("ask"), number: count }),
  z.strictObject({ kind: z.literal("losses"), step: count, share: count, losses: z.array(z.number()).max(65_536) }),
  z.strictObject({ kind: z.literal("done"), step: count, share: count, version: count }),
  z.strictObject({
    kind: z.literal("pauseDone"),
    number: count,
    evaluated: z.strictObject({ testAccuracy: z.number(), testLoss: z.number() }).nullable(),
    layerDigests: z.record(z.string(), z.string()).nullable(),
    notDurable: z.string().nullable(),
  }),
]);
export type Telling = z.infer<typeof tellingSchema>;
export type Given = z.infer<typeof givenSchema>;

/** A worker's tellings are counted from 0. */
export const toldInOrderSchema = z.strictObject({ sequence: count, telling: tellingSchema });
export type ToldInOrder = z.infer<typeof toldInOrderSchema>;

/** From the scheduler to who stands in for it: what it is going to hear. */
export const taskEventSchema = z.discriminatedUnion("kind", [
  z.strictObject({ kind: z.literal("told"), worker: count, ...toldInOrderSchema.shape }),
  z.strictObject({ kind: z.literal("lost"), worker: count }),
  z.strictObject({ kind: z.literal("joined"), worker: count }),
  z.strictObject({ kind: z.literal("stop") }),
]);
export type TaskEvent = z.infer<typeof taskEventSchema>;

/** From who stands in: so many of them have come. */
export const hadSchema = z.strictObject({ had: count });

export function encodeMessage(message: object): Uint8Array {
  return Buffer.from(JSON.stringify(message));
}

/** @throws ProtocolError for what is not of this form */
export function parseMessage<Schema extends z.ZodType>(
  schema: Schema,
  bytes: Uint8Array,
  from: string,
): z.infer<Schema> {
  let value: unknown;
  try {
    value = JSON.parse(Buffer.from(bytes).toString());
  } catch {
    value = undefined;
  }
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  throw new ProtocolError(
    `${from} said what is not understood: ${parsed.error.issues[0]?.message ?? ""}`,
    "run the same build everywhere",
  );
}
