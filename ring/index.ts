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
import type { StateFolder } from "../src/runtime/state-folder.ts";
import { measureLayerCosts } from "../src/runtime/compute-costs.ts";
import { defined } from "../src/types/assert.ts";
import type { Candidate, FormedRing } from "./core/formation.ts";
import { peersOf, type RingView } from "./core/view.ts";
import { ControlInbox } from "./runtime/control-inbox.ts";
import { DATA_PROTOCOL, EdgeInbox } from "./runtime/edges.ts";
import { foundRing, joinFounder, redirectNewcomers, welcomeLate } from "./runtime/founding.ts";
import type { Job, Welcome } from "./runtime/messages.ts";
import type { RunOutcome } from "./runtime/finish.ts";
import { NodeState } from "./runtime/node-state.ts";
import { RingNode } from "./runtime/node.ts";
import { REPLICA_PROTOCOL, ReplicaInbox } from "./runtime/replicas.ts";
import { firstView } from "./runtime/segments.ts";

export type { Job } from "./runtime/messages.ts";
export type { RunOutcome } from "./runtime/finish.ts";
export { ownedBy, type RingView } from "./core/view.ts";
export { checkSchedule } from "./core/schedule.ts";
export { BASE_BYTES, CAN_SPLIT, firstCut, layerBytes, planNode, rangesOf, shapeOf } from "./runtime/segments.ts";

/** How a node comes into its ring. */
export type RingRole =
  | { readonly kind: "founder"; readonly job: Job; readonly data: DataSet }
  /** `expected`: settings that must be the job's, or the node is refused. */
  | {
      readonly kind: "joiner";
      readonly address: string;
      readonly expected: Readonly<Record<string, string | number | boolean | null>>;
      /** The job's data, where this node comes to hold the model's begin. */
      readonly data: (job: Job) => Promise<DataSet>;
    };

export interface RingInit {
  readonly role: RingRole;
  /** Nodes with the same value share a disk: one of them writes the results. */
  readonly machine: string;
  /** Place in the join order that a launcher wishes; null: as it comes. */
  readonly wish: number | null;
  readonly invite: string | null;
  readonly transport: Transport;
  /** Who this node is over restarts, and where its votes are. */
  readonly state: StateFolder;
  readonly onPresent: (present: number, size: number) => void;
  readonly onCommitted: (step: number, loss: number) => void;
  /** Something is not on the disk; training goes on. */
  readonly onNotDurable: (step: number, reason: string) => void;
  readonly onView: (view: RingView, node: number) => void;
}

/** A node that knows its ring. */
export interface Ring extends Disposable {
  readonly job: Job;
  /** Id: kind and probe digest. */
  readonly engine: string;
  /** One integer a layer. */
  readonly layerCosts: readonly number[];
  /** The newest that this node knows. */
  readonly view: RingView;
  /** Negative before a running ring has admitted it. */
  readonly node: number;
  /** Once the folder for the results is there. Throws the error that ended the run, on whichever node it happened. */
  train(folder: RunFolder): Promise<RunOutcome>;
  requestStop(): void;
  /** Goes in order; with replicas the others take over. */
  leave(): void;
  /** Nothing before `train`. */
  describe(): ReturnType<RingNode["describe"]> | undefined;
  /** Where it still trains it ends at once; for the others this node has died. */
  [Symbol.dispose](): void;
}

/** What a node is told, or decides, when it comes into its ring. */
interface Place {
  readonly job: Job;
  readonly layerCosts: readonly number[];
  readonly engine: string;
  readonly view: RingView;
  readonly isMember: boolean;
}

/**
 * Founds a ring and waits until it is whole, or joins one through any member; one that trains already takes it up when it can.
 * Throws NetworkError where nobody answers or the ring refuses.
 */
export async function joinRing(init: RingInit): Promise<Ring> {
  const { role, transport, invite } = init;
  const inboxes = { edges: new EdgeInbox(), control: new ControlInbox(), replicas: new ReplicaInbox() };
  for (const inbox of Object.values(inboxes)) await inbox.listen(transport);
  const engines = chooseEngines(role.kind === "founder" ? role.job.settings.engine : "auto");
  const self = candidateOf(init, engines);
  const place =
    role.kind === "founder" ? await found(init, inboxes, self, engines, role) : await join(init, inboxes, self, role);
  const ring = new JoinedRing(init, place, self, inboxes);
  const { job, layerCosts, engine } = place;
  welcomeLate(inboxes.control, invite, () => ({ job, layerCosts, engine, view: ring.view }));
  return ring;
}

function candidateOf({ transport, machine, wish, state }: RingInit, engines: EngineChoice): Candidate {
  const { incarnation } = state.identity;
  const { peerId, addresses } = transport;
  return { peerId, addresses, machine, incarnation, boot: state.boot, engines: engines.ids, wish };
}

async function found(
  init: RingInit,
  inboxes: Inboxes,
  founder: Candidate,
  engines: EngineChoice,
  { job }: Extract<RingRole, { kind: "founder" }>,
): Promise<Place> {
  const { settings } = job;
  const { model, batch, microBatches } = settings;
  const rows = batch / microBatches;
  const costs =
    settings.pace === null ? measured(settings, defined(engines.kinds[0], "an engine")) : paced(model, rows);
  const { invite, onPresent } = init;
  const inbox = inboxes.control;
  const formed = await foundRing({ job, founder, layerCosts: costs, engines: engines.kinds, invite, inbox, onPresent });
  return placeIn(job, formed);
}

function placeIn(job: Job, formed: FormedRing): Place {
  const view = firstView(job.settings, formed, job.firstStep);
  return { job, layerCosts: formed.layerCosts, engine: formed.engine, view, isMember: true };
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

async function join(
  init: RingInit,
  inboxes: Inboxes,
  candidate: Candidate,
  { address, expected }: Extract<RingRole, { kind: "joiner" }>,
): Promise<Place> {
  const { transport, invite, onPresent } = init;
  // What the founder says of itself: the address that led here may hold on this machine only.
  let founder: readonly string[] | undefined;
  redirectNewcomers(inboxes.control, () => founder);
  const onWelcome = (welcome: Welcome): void => {
    ({ founder } = welcome);
    onPresent(welcome.present, welcome.size);
  };
  const answer = await joinFounder({ address, candidate, expected, invite, transport, onWelcome });
  if (answer.kind === "decided") return placeIn(answer.job, answer.view);
  const { job, layerCosts, engine, view } = answer;
  return { job, layerCosts, engine, view, isMember: false };
}

interface Inboxes {
  readonly edges: EdgeInbox;
  readonly control: ControlInbox;
  readonly replicas: ReplicaInbox;
}

class JoinedRing implements Ring {
  readonly job: Job;
  readonly engine: string;
  readonly layerCosts: readonly number[];
  readonly #init: RingInit;
  readonly #place: Place;
  readonly #self: Candidate;
  readonly #inboxes: Inboxes;
  #ringNode: RingNode | undefined;
  #isStopWanted = false;

  constructor(init: RingInit, place: Place, self: Candidate, inboxes: Inboxes) {
    this.job = place.job;
    this.engine = place.engine;
    this.layerCosts = place.layerCosts;
    this.#init = init;
    this.#place = place;
    this.#self = self;
    this.#inboxes = inboxes;
  }

  get view(): RingView {
    return this.#ringNode?.describe().view ?? this.#place.view;
  }

  get node(): number {
    const { isMember, view } = this.#place;
    const member = view.members.find(({ peerId }) => peerId === this.#self.peerId);
    return this.#ringNode?.describe().node ?? (isMember && member !== undefined ? member.node : -1);
  }

  async train(folder: RunFolder): Promise<RunOutcome> {
    const { job, layerCosts, engine } = this;
    const { role, transport, invite, state, onCommitted, onNotDurable, onView } = this.#init;
    const { link, replicas } = job.settings;
    const { view: newest, isMember } = this.#place;
    // Data goes out on the streams that a node dials; on the others it only grants. Tensors go before copies.
    const protocols = [DATA_PROTOCOL, REPLICA_PROTOCOL];
    const shaped = link === null ? null : shapedTransport(transport, { ...parseLink(link), protocols });
    const nodeState =
      replicas === 0
        ? undefined
        : await NodeState.open(state, job.job, isMember, (step) => onNotDurable(step, "votes"));
    const voted = nodeState?.view;
    const view = !isMember && voted !== undefined && voted.view > newest.view ? voted : newest;
    const data = role.kind === "founder" ? () => Promise.resolve(role.data) : () => role.data(job);
    this.#ringNode = new RingNode({
      ...{ job, layerCosts, engine, view, node: this.#numberIn(view), isMember, self: this.#self, invite, folder },
      ...{ transport: shaped ?? transport, inboxes: this.#inboxes, state: nodeState, data },
      ...{ onCommitted, onNotDurable, onView },
    });
    if (this.#isStopWanted) this.#ringNode.requestStop();
    try {
      return await this.#ringNode.train();
    } finally {
      await shaped?.close();
    }
  }

  /** A node that comes back still votes on the views that it was in. */
  #numberIn(view: RingView): number {
    return peersOf(view).find(({ peerId }) => peerId === this.#self.peerId)?.node ?? -1;
  }

  requestStop(): void {
    this.#isStopWanted = true;
    this.#ringNode?.requestStop();
  }

  leave(): void {
    this.#ringNode?.leave();
  }

  describe(): ReturnType<RingNode["describe"]> | undefined {
    return this.#ringNode?.describe();
  }

  [Symbol.dispose](): void {
    this.#ringNode?.end();
  }
}
