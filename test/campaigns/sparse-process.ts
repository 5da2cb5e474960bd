/**
 * @file One process of the sparse campaign: a server of keys, or a worker with its block of samples. It hears what it is from its parent, and ends
 * with it.
 */
import { once } from "node:events";
import { SparseBlock } from "../../baseline-ps/applications/sparse-block.ts";
import {
  recordedLasso,
  type StepRecord,
  trainSparse,
  type WeightsRecord,
} from "../../baseline-ps/applications/sparse-logistic.ts";
import { blockOf, keyCount, type SparseTask } from "../../baseline-ps/applications/sparse-samples.ts";
import { type Consistency, rulesOf } from "../../baseline-ps/core/consistency.ts";
import { divideKeys } from "../../baseline-ps/core/key-map.ts";
import { KeyClient } from "../../baseline-ps/runtime/key-client.ts";
import { keysProtocol } from "../../baseline-ps/runtime/key-frames.ts";
import { KeyMemory } from "../../baseline-ps/runtime/key-memory.ts";
import { KeyServer } from "../../baseline-ps/runtime/key-server.ts";
import { ServerFunctions } from "../../baseline-ps/runtime/server-functions.ts";
import { createLibp2pTransport } from "../../src/net/libp2p.ts";
import { nowMs } from "../../src/runtime/clock.ts";
import { UNBOOKED } from "../helpers/unbooked.ts";
import type { Failed } from "./reporting-process.ts";

export interface SparseRun {
  readonly task: SparseTask;
  readonly servers: number;
  readonly workers: number;
  readonly steps: number;
  readonly consistency: Consistency;
  readonly rate: number;
  readonly lambda: number;
}

export type SparseRole =
  | { readonly kind: "server"; readonly index: number; readonly run: SparseRun }
  | {
      readonly kind: "worker";
      readonly index: number;
      readonly run: SparseRun;
      /** Of each server. */
      readonly servers: readonly (readonly string[])[];
    };

/** What a process says, in this order: a server the first two, a worker the third. */
export type SparseReport =
  | { readonly kind: "listening"; readonly addresses: readonly string[] }
  | { readonly kind: "served"; readonly weights: readonly WeightsRecord[] }
  | {
      readonly kind: "trained";
      readonly samples: number;
      readonly keys: number;
      readonly records: readonly StepRecord[];
    };

const LISTEN = ["/ip4/127.0.0.1/tcp/0"];
const JOB = "sparse";
const say = (report: SparseReport | Failed): void => void process.send!(report);
const fail = (error: unknown): void => say({ kind: "failed", message: (error as Error).message });

async function serve({ index, run }: Extract<SparseRole, { kind: "server" }>): Promise<void> {
  const { task, servers, workers, consistency, rate, lambda } = run;
  const weights: WeightsRecord[] = [];
  const functions = new ServerFunctions();
  functions.define("lasso", recordedLasso(lambda, weights));
  const map = divideKeys(keyCount(task), servers);
  const shard = { firstStep: 0, shares: workers, rules: rulesOf(consistency.kind), tau: consistency.tau };
  const onFailure = (_: number, error: Error): void => fail(error);
  const transport = await createLibp2pTransport({ listen: LISTEN });
  const { peerId } = transport;
  const server = new KeyServer({
    ...{ ...UNBOOKED, job: JOB, server: index, map, shard, clients: workers, peerId, onFailure },
    ...{ memory: new KeyMemory("wasm-exact"), functions, function: "lasso", rate },
  });
  await transport.handle(keysProtocol(JOB), (stream) => void server.accept(stream).catch(fail));
  say({ kind: "listening", addresses: transport.addresses });
  // The workers are done.
  await once(process, "message");
  say({ kind: "served", weights });
}

async function work({ index, run, servers }: Extract<SparseRole, { kind: "worker" }>): Promise<void> {
  const { task, workers, steps, consistency } = run;
  const { from, to } = blockOf(task.samples, workers, index);
  const block = new SparseBlock(task, { from, to });
  const transport = await createLibp2pTransport({ listen: [] });
  const map = divideKeys(keyCount(task), run.servers);
  const client = await KeyClient.connect({ job: JOB, client: index, map, servers, transport, nowMs });
  const records: StepRecord[] = [];
  const onStep = (record: StepRecord): void => void records.push(record);
  await trainSparse({ client, block, share: index, consistency, steps, onStep });
  await client.close();
  say({ kind: "trained", samples: to - from, keys: block.keys.length, records });
}

process.on("disconnect", () => process.exit());
// Ctrl-C reaches all processes of a terminal: the parent says when this one ends.
process.on("SIGINT", () => {});
const [role] = (await once(process, "message")) as [SparseRole];
try {
  await (role.kind === "server" ? serve(role) : work(role));
} catch (error) {
  fail(error);
}
