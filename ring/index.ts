/**
 * @file The ring's public face: found one or join one, then train.
 *
 * ```ts
 * const ring = await joinRing({ role: { kind: "founder", job, data }, folder, transport, … });
 * const { summary } = await ring.train();
 * ```
 */
import { chooseEngines, type EngineChoice } from "../src/runtime/engines.ts";
import type { DataSet } from "../src/data/dataset.ts";
import type { Settings } from "../src/config/settings.ts";
import { parseLink } from "../src/config/emulation.ts";
import type { EngineKind } from "../src/engine/contract.ts";
import type { RunFolder } from "../src/metrics/run-folder.ts";
import { shapedTransport } from "../src/net/shaped.ts";
import { LAYER_PASSES, operationFlops } from "../src/nn/flops.ts";
import { parseModel } from "../src/nn/spec.ts";
import type { Transport } from "../src/net/transport.ts";
import { Feeder } from "../src/runtime/feeder.ts";
import { measureLayerCosts } from "../src/runtime/compute-costs.ts";
import { defined } from "../src/types/assert.ts";
import type { Candidate, View } from "./core/formation.ts";
import { DATA_PROTOCOL, EdgeInbox } from "./runtime/edges.ts";
import { foundRing, joinFounder, redirectNewcomers } from "./runtime/founding.ts";
import type { Job, Welcome } from "./runtime/messages.ts";
import { RingNode, type RunOutcome } from "./runtime/node.ts";

export type { Job } from "./runtime/messages.ts";
export type { RunOutcome } from "./runtime/node.ts";
export type { View } from "./core/formation.ts";
export { checkSchedule } from "./core/schedule.ts";
export { BASE_BYTES, CAN_SPLIT, firstCut, planNode, rangesOf, shapeOf } from "./runtime/segments.ts";

/** How a node comes into its ring. */
export type RingRole =
  | { readonly kind: "founder"; readonly job: Job; readonly data: DataSet }
  /** `expected`: settings that must be the job's, or the node is refused. */
  | {
      readonly kind: "joiner";
      readonly address: string;
      readonly expected: Readonly<Record<string, string | number | null>>;
    };

export interface RingInit {
  readonly role: RingRole;
  /** Nodes with the same value share a disk: one of them writes the results. */
  readonly machine: string;
  /** Place in the join order that a launcher wishes; null: as it comes. */
  readonly wish: number | null;
  readonly invite: string | null;
  readonly transport: Transport;
  readonly onPresent: (present: number, size: number) => void;
  readonly onCommitted: (step: number, loss: number) => void;
  /** A checkpoint is not on the disk; training goes on. */
  readonly onNotDurable: (step: number, reason: string) => void;
}

/** A node that knows its ring. */
export interface Ring {
  readonly job: Job;
  readonly view: View;
  readonly node: number;
  /** Once the folder for the results is there. Throws the error that ended the run, on whichever node it happened. */
  train(folder: RunFolder): Promise<RunOutcome>;
  requestStop(): void;
  /** Nothing before `train`. */
  describe(): ReturnType<RingNode["describe"]> | undefined;
}

/**
 * Founds a ring and waits until it is whole, or joins one through any member.
 * Throws NetworkError where nobody answers or the ring refuses.
 */
export async function joinRing(init: RingInit): Promise<Ring> {
  const { role, transport, onCommitted, onNotDurable } = init;
  const inbox = new EdgeInbox();
  await inbox.listen(transport);
  const { job, view } =
    role.kind === "founder" ? await found(init, role) : await join(init, role.address, role.expected);
  const { node } = defined(
    view.members.find((member) => member.peerId === transport.peerId),
    "a decided view holds this peer",
  );
  const { seed, batch, microBatches } = job.settings;
  const feeder = role.kind === "founder" ? new Feeder(role.data, { seed, batch, microBatches }) : undefined;
  return new JoinedRing(job, view, node, { transport, inbox, feeder, onCommitted, onNotDurable });
}

function candidateOf(init: RingInit, engines: EngineChoice): Candidate {
  const { transport, machine, wish } = init;
  return { peerId: transport.peerId, addresses: transport.addresses, machine, engines: engines.ids, wish };
}

async function found(init: RingInit, { job }: Extract<RingRole, { kind: "founder" }>) {
  const { settings } = job;
  const engines = chooseEngines(settings.engine);
  const { model, batch, microBatches } = settings;
  const rows = batch / microBatches;
  const layerCosts =
    settings.pace === null ? measured(settings, defined(engines.kinds[0], "an engine")) : paced(model, rows);
  const { transport, invite, onPresent } = init;
  const founder = candidateOf(init, engines);
  const view = await foundRing({ job, founder, layerCosts, engines: engines.kinds, invite, transport, onPresent });
  return { job, view };
}

/** Microseconds of a step. */
function measured({ model, batch, microBatches, optimizer }: Settings, engine: EngineKind): readonly number[] {
  return measureLayerCosts(model, batch / microBatches, engine, optimizer).map(
    (cost) => microBatches * (cost.forwardUs + cost.backwardInputUs + cost.backwardWeightUs) + cost.updateUs,
  );
}

/** At a stated speed time is work: thousands of FLOP of a micro-batch. */
function paced(model: string, rows: number): readonly number[] {
  return parseModel(model).layers.map((spec, layer) => {
    const flops = LAYER_PASSES.map((pass) => operationFlops(spec, rows, pass, layer === 0));
    return Math.max(1, Math.round(flops.reduce((sum, each) => sum + each, 0) / 1000));
  });
}

async function join(init: RingInit, address: string, expected: Readonly<Record<string, string | number | null>>) {
  const { transport, invite, onPresent } = init;
  const candidate = candidateOf(init, chooseEngines("auto"));
  // What the founder says of itself: the address that led here may hold on this machine only.
  let founder: readonly string[] | undefined;
  await redirectNewcomers(transport, () => founder);
  const onWelcome = (welcome: Welcome): void => {
    ({ founder } = welcome);
    onPresent(welcome.present, welcome.size);
  };
  return joinFounder({ address, candidate, expected, invite, transport, onWelcome });
}

interface Components {
  readonly transport: Transport;
  readonly inbox: EdgeInbox;
  readonly feeder: Feeder | undefined;
  readonly onCommitted: (step: number, loss: number) => void;
  /** A checkpoint is not on the disk; training goes on. */
  readonly onNotDurable: (step: number, reason: string) => void;
}

class JoinedRing implements Ring {
  readonly job: Job;
  readonly view: View;
  readonly node: number;
  readonly #components: Components;
  #ringNode: RingNode | undefined;
  #isStopWanted = false;

  constructor(job: Job, view: View, node: number, components: Components) {
    this.job = job;
    this.view = view;
    this.node = node;
    this.#components = components;
  }

  async train(folder: RunFolder): Promise<RunOutcome> {
    const { job, view, node } = this;
    const { link } = job.settings;
    const { transport } = this.#components;
    // Data goes out on the streams that a node dials; on the others it only grants.
    const shaped =
      link === null ? null : shapedTransport(transport, { ...parseLink(link), protocols: [DATA_PROTOCOL] });
    this.#ringNode = new RingNode({ job, view, node, folder, ...this.#components, transport: shaped ?? transport });
    if (this.#isStopWanted) this.#ringNode.requestStop();
    try {
      return await this.#ringNode.train();
    } finally {
      await shaped?.close();
    }
  }

  requestStop(): void {
    this.#isStopWanted = true;
    this.#ringNode?.requestStop();
  }

  /** Nothing before `train`. */
  describe(): ReturnType<RingNode["describe"]> | undefined {
    return this.#ringNode?.describe();
  }
}
