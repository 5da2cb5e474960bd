/** @file One node of the localize campaign: it hears what it is from its parent, then where the others are, and ends with its parent. */
import { once } from "node:events";
import { type EpochRecord, factorise, type Placement } from "../../baseline-ps/applications/matrix-factorisation.ts";
import { factorKeys, type MatrixTask } from "../../baseline-ps/applications/matrix-entries.ts";
import { KeyNode } from "../../baseline-ps/localize/key-node.ts";
import { createLibp2pTransport } from "../../src/net/libp2p.ts";
import { nowMs } from "../../src/runtime/clock.ts";
import type { Failed } from "./reporting-process.ts";

export interface LocalizeRun {
  readonly task: MatrixTask;
  readonly workers: number;
  readonly epochs: number;
  readonly rate: number;
  readonly decay: number;
  readonly placement: Placement;
}

export interface LocalizeRole {
  readonly worker: number;
  readonly run: LocalizeRun;
}

/** When the epoch was over, and what this node had sent until then. */
export interface MeasuredEpoch extends EpochRecord {
  readonly endMs: number;
  readonly bytesSent: number;
  readonly messagesSent: number;
}

/** In this order. */
export type LocalizeReport =
  | { readonly kind: "listening"; readonly addresses: readonly string[] }
  | {
      readonly kind: "trained";
      readonly epochs: readonly MeasuredEpoch[];
      /** `[keys, rank]`, of worker 0. */
      readonly factors: readonly number[];
    };

const say = (report: LocalizeReport | Failed): void => void process.send!(report);

async function work({ worker, run }: LocalizeRole): Promise<void> {
  const { task, workers } = run;
  const keys = factorKeys(task);
  const transport = await createLibp2pTransport({ listen: ["/ip4/127.0.0.1/tcp/0"] });
  const space = { nodes: workers, keys, length: task.rank };
  const node = await KeyNode.listen({ job: "localize", node: worker, transport, ...space });
  const heard = once(process, "message");
  say({ kind: "listening", addresses: transport.addresses });
  const [addresses] = (await heard) as [readonly (readonly string[])[]];
  await node.meet(addresses);
  const epochs: MeasuredEpoch[] = [];
  const onEpoch = (record: EpochRecord): void => {
    const { bytesSent, messagesSent } = node.counters;
    epochs.push({ ...record, endMs: nowMs(), bytesSent, messagesSent });
  };
  await factorise({ ...run, node, worker, onEpoch });
  const factors = new Float32Array(worker === 0 ? keys * task.rank : 0);
  if (worker === 0) await node.wait(node.pull({ start: 0, end: keys }, factors));
  await node.close();
  say({ kind: "trained", epochs, factors: [...factors] });
}

process.on("disconnect", () => process.exit());
// Ctrl-C reaches all processes of a terminal: the parent says when this one ends.
process.on("SIGINT", () => {});
const [role] = (await once(process, "message")) as [LocalizeRole];
try {
  await work(role);
} catch (error) {
  say({ kind: "failed", message: (error as Error).message });
}
