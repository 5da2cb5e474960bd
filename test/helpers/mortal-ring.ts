/**
 * @file A ring in this process whose members can die, come back with what their disk held, come new and leave. Who dies says nothing more: its
 * streams end without GOODBYE, nobody listens at its address, nothing of it reaches a file. Every wait is bounded.
 */
import { cpSync } from "node:fs";
import { expect } from "vitest";
import { joinRing, type Ring, type RingRole, type RingView } from "../../ring/index.ts";
import type { Settings } from "../../src/config/settings.ts";
import { RUN_FILES, RunFolder, type MetricsLine } from "../../src/metrics/run-folder.ts";
import { MemoryNetwork } from "../../src/net/memory.ts";
import { severable, type SeverableTransport } from "../../src/net/severable.ts";
import { within } from "../../src/net/wait.ts";
import type { StateFolder } from "../../src/runtime/state-folder.ts";
import { until } from "./cli.ts";
import { dataOf, jobOf, joinerOf, type Outcome, ringInit, Scratch } from "./memory-ring.ts";

/** Of one wait, on a busy machine. */
const LIMIT_MS = 30_000;
const NAME = "node-";

/** The run's folder as one process sees it: when it is dead, it writes no more. */
class SeveredFolder extends RunFolder {
  isSevered = false;

  override appendLines(...given: Parameters<RunFolder["appendLines"]>): void {
    if (!this.isSevered) super.appendLines(...given);
  }

  override writeJson(...given: Parameters<RunFolder["writeJson"]>): void {
    if (!this.isSevered) super.writeJson(...given);
  }

  override writeLines(...given: Parameters<RunFolder["writeLines"]>): void {
    if (!this.isSevered) super.writeLines(...given);
  }
}

interface Member {
  readonly ring: Ring;
  readonly transport: SeverableTransport;
  readonly state: StateFolder;
  readonly folder: SeveredFolder;
  /** The summary, null where it left; or what ended it. */
  readonly ended: Promise<Record<string, unknown> | null | Error>;
}

export class MortalRing implements AsyncDisposable {
  readonly #network = new MemoryNetwork();
  readonly #scratch = new Scratch();
  readonly folder = this.#scratch.folder();
  /** By number in the order in which they came first. */
  readonly #members = new Map<number, Member>();
  readonly #remains = new Map<number, string>();
  /** By node, where each is on a machine of its own. */
  #folders: readonly RunFolder[] = [];
  #watchers: { readonly isDue: (step: number, view: RingView) => boolean; readonly resolve: () => void }[] = [];

  /** All members train. `isApart`: each on a machine of its own, with a folder of its own. */
  static async form(settings: Settings, isApart = false): Promise<MortalRing> {
    const ring = new MortalRing();
    if (isApart) ring.#folders = Array.from({ length: settings.nodes }, () => ring.#scratch.folder());
    const founder = { kind: "founder", job: jobOf(settings), data: dataOf(settings) } as const;
    const states = await Promise.all(Array.from({ length: settings.nodes }, () => ring.#scratch.state()));
    const joiner = joinerOf(`/memory/${NAME}0/p2p/${NAME}0`);
    const forming = states.map((state, node) => ring.#start(node, state, node === 0 ? founder : joiner, node));
    await bounded(Promise.all(forming), "formation");
    return ring;
  }

  async #start(node: number, state: StateFolder, role: RingRole, wish: number | null): Promise<void> {
    const transport = severable(this.#network.join(`${NAME}${node}`));
    const onCommitted = (step: number): void => this.#look(step, this.#members.get(node)!.ring.view);
    const apart = this.#folders[node];
    const machine = apart === undefined ? {} : { machine: `machine-${node}` };
    const ring = await joinRing(ringInit(transport, state, role, { wish, onCommitted, ...machine }));
    const folder = new SeveredFolder((apart ?? this.folder).path);
    const ended = ring.train(folder).then(
      ({ summary }) => summary,
      (error: unknown) => error as Error,
    );
    this.#members.set(node, { ring, transport, state, folder, ended });
  }

  #look(step: number, view: RingView): void {
    const due = this.#watchers.filter(({ isDue }) => isDue(step, view));
    this.#watchers = this.#watchers.filter((watcher) => !due.includes(watcher));
    for (const { resolve } of due) resolve();
  }

  /** Resolves when a step is told of which this holds: `view` is that of the node that tells it. */
  until(isDue: (step: number, view: RingView) => boolean, what: string): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#watchers.push({ isDue, resolve });
    return bounded(promise, what);
  }

  reached(wanted: number): Promise<void> {
    return this.until((step) => step >= wanted, `step ${wanted}`);
  }

  /** Resolves when a step is told in a view with so many owners of layers. */
  trainsWith(owners: number): Promise<void> {
    return this.until((_, view) => view.owners.length === owners, `training with ${owners}`);
  }

  /** Layers by stage, as a member knows them. */
  get cut(): RingView["cut"] {
    return this.#members.values().next().value!.ring.view.cut;
  }

  /** All at once, as far as anybody can see. */
  kill(...nodes: readonly number[]): void {
    for (const node of nodes) {
      const { ring, transport, state, folder } = this.#members.get(node)!;
      this.#members.delete(node);
      const remains = `${state.path}-of-the-dead`;
      cpSync(state.path, remains, { recursive: true });
      this.#remains.set(node, remains);
      folder.isSevered = true;
      void transport.close();
      ring[Symbol.dispose]();
    }
  }

  /** Nothing passes between the two any more, and nobody is told. */
  sever(one: number, other: number): void {
    this.#members.get(one)!.transport.sever(`${NAME}${other}`);
    this.#members.get(other)!.transport.sever(`${NAME}${one}`);
  }

  mend(one: number, other: number): void {
    this.#members.get(one)!.transport.mend(`${NAME}${other}`);
    this.#members.get(other)!.transport.mend(`${NAME}${one}`);
  }

  /** Resolves when the node knows of a view of which this holds. */
  async knows(node: number, isDue: (view: RingView) => boolean, what: string): Promise<void> {
    await until(() => isDue(this.#members.get(node)!.ring.view), what, LIMIT_MS);
  }

  /** A node that is not there comes: back, with what its disk held, or for the first time. */
  async come(node: number): Promise<void> {
    const [address] = this.#members.values().next().value!.transport.addresses;
    const state = await this.#scratch.state(this.#remains.get(node));
    await bounded(this.#start(node, state, joinerOf(address!), null), `node ${node}`);
  }

  /** Resolves when it has gone. */
  async leave(node: number): Promise<void> {
    const { ring, ended, transport } = this.#members.get(node)!;
    ring.leave();
    expect(await bounded(ended, `the leaving of node ${node}`), "no summary before the end").toBeNull();
    this.#members.delete(node);
    await transport.close();
  }

  requestStop(): void {
    this.#members.values().next().value?.ring.requestStop();
  }

  /** How it ended for each member that is there. */
  ends(): Promise<readonly (Record<string, unknown> | null | Error)[]> {
    return bounded(Promise.all([...this.#members.values()].map(({ ended }) => ended)), "the end of the run");
  }

  /** What the run left behind, on which all agree; every committed step stands in the file once, in order. */
  async outcome(): Promise<Outcome> {
    const ends = await this.ends();
    for (const end of ends) if (end instanceof Error) throw end;
    const [summary] = ends as readonly Record<string, unknown>[];
    for (const end of ends) expect(end).toEqual(summary);
    const folders = this.#folders.length > 0 ? this.#folders : [this.folder];
    const curves = folders.map((folder) => {
      expect(folder.readJson(RUN_FILES.summary)).toEqual(JSON.parse(JSON.stringify(summary)));
      const lines = folder.readLines(RUN_FILES.metrics) as readonly MetricsLine[];
      expect(lines.map(({ step }) => step)).toEqual(lines.map((_, index) => index));
      return lines.map(({ loss }) => loss);
    });
    for (const curve of curves) expect(curve).toEqual(curves[0]);
    return { summary: summary!, losses: curves[0]! };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const members = [...this.#members.values()];
    this.kill(...this.#members.keys());
    await bounded(Promise.all(members.map(({ ended }) => ended)), "the end of all members");
    this.#scratch.remove();
  }
}

function bounded<T>(promise: Promise<T>, what: string): Promise<T> {
  return within(promise, LIMIT_MS, () => {
    throw new Error(`${what} took more than ${LIMIT_MS} ms`);
  });
}
