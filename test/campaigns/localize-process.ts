/** @file One node of the localize campaign: it hears what it is from its parent, then where the others are, and ends with its parent. */
import { once } from "node:events";
import { type EpochRecord, factorise, type Placement } from "../../baseline-ps/applications/matrix-factorisation.ts";
import { factorKeys, type MatrixTask } from "../../baseline-ps/applications/matrix-entries.ts";
import type { KeySpace } from "../../baseline-ps/localize/frames.ts";
import { KeyNode } from "../../baseline-ps/localize/key-node.ts";
import { createLibp2pTransport } from "../../src/net/libp2p.ts";
import { nowMs } from "../../src/runtime/clock.ts";
import { RandomStream } from "../../src/types/random.ts";
import { lastState, recordHistory } from "../helpers/history-worker.ts";
import { type KeyOperation, valuesFor } from "../helpers/key-history.ts";
import type { Failed } from "./reporting-process.ts";

export interface LocalizeRun {
  readonly task: MatrixTask;
  readonly workers: number;
  readonly epochs: number;
  readonly rate: number;
  readonly decay: number;
  readonly placement: Placement;
}

/** Rounds of pulls, pushes and localizes at random, each on a few keys of its own. */
export interface HistoryRun {
  readonly seed: number;
  readonly nodes: number;
  readonly workersPerNode: number;
  readonly rounds: number;
  readonly keysPerRound: number;
  /** Of each worker in a round. */
  readonly pushes: number;
}

export type LocalizeRole =
  | { readonly kind: "train"; readonly node: number; readonly run: LocalizeRun }
  | { readonly kind: "record"; readonly node: number; readonly run: HistoryRun };

/** When the epoch was over, and what this node had sent until then. */
export interface MeasuredEpoch extends EpochRecord {
  readonly endMs: number;
  readonly bytesSent: number;
  readonly messagesSent: number;
}

/** First where it listens, then what its role came to. */
export type LocalizeReport =
  | { readonly kind: "listening"; readonly addresses: readonly string[] }
  | {
      readonly kind: "trained";
      readonly epochs: readonly MeasuredEpoch[];
      /** `[keys, rank]`, of node 0. */
      readonly factors: readonly number[];
    }
  | {
      readonly kind: "recorded";
      readonly history: readonly KeyOperation[];
      /** What is there in the end, of node 0. */
      readonly last: readonly KeyOperation[];
      readonly accesses: KeyNode["accesses"];
    };

const say = (report: LocalizeReport | Failed): void => void process.send!(report);

async function meet(node: number, space: KeySpace): Promise<KeyNode> {
  const transport = await createLibp2pTransport({ listen: ["/ip4/127.0.0.1/tcp/0"] });
  const self = await KeyNode.listen({ job: "localize", node, transport, ...space });
  const heard = once(process, "message");
  say({ kind: "listening", addresses: transport.addresses });
  const [addresses] = (await heard) as [readonly (readonly string[])[]];
  await self.meet(addresses);
  return self;
}

async function train({ node: worker, run }: Extract<LocalizeRole, { kind: "train" }>): Promise<void> {
  const { task, workers } = run;
  const keys = factorKeys(task);
  const node = await meet(worker, { nodes: workers, keys, length: task.rank });
  const epochs: MeasuredEpoch[] = [];
  const onEpoch = (epoch: EpochRecord): void => {
    const { bytesSent, messagesSent } = node.counters;
    epochs.push({ ...epoch, endMs: nowMs(), bytesSent, messagesSent });
  };
  await factorise({ ...run, node, worker, onEpoch });
  const factors = new Float32Array(worker === 0 ? keys * task.rank : 0);
  if (worker === 0) await node.wait(node.pull({ start: 0, end: keys }, factors));
  await node.close();
  say({ kind: "trained", epochs, factors: [...factors] });
}

async function record({ node: number, run }: Extract<LocalizeRole, { kind: "record" }>): Promise<void> {
  const { seed, nodes, workersPerNode, rounds, keysPerRound, pushes } = run;
  const all = nodes * workersPerNode;
  const length = valuesFor(all * pushes);
  const node = await meet(number, { nodes, keys: rounds * keysPerRound, length });
  const own = Array.from({ length: workersPerNode }, (_, place) => number + place * nodes);
  const [history, last]: KeyOperation[][] = [[], []];
  for (let round = 0; round < rounds; round += 1) {
    const keys = Array.from({ length: keysPerRound }, (_, place) => round * keysPerRound + place);
    const recording = own.map((worker) =>
      recordHistory(node, new RandomStream(seed, 1_004, worker, round), { worker, keys, length, pushes }),
    );
    history!.push(...(await Promise.all(recording)).flat());
    await node.barrier();
    if (number === 0) last!.push(...(await lastState(node, { worker: all, keys, length })));
  }
  await node.close();
  say({ kind: "recorded", history: history!, last: last!, accesses: node.accesses });
}

process.on("disconnect", () => process.exit());
// Ctrl-C reaches all processes of a terminal: the parent says when this one ends.
process.on("SIGINT", () => {});
const [role] = (await once(process, "message")) as [LocalizeRole];
try {
  await (role.kind === "train" ? train(role) : record(role));
} catch (error) {
  say({ kind: "failed", message: (error as Error).message });
}
