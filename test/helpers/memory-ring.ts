/**
 * @file A whole ring in this process: real nodes with real compute threads over the memory transport, and one process
 * without a network beside them. Every wait is bounded.
 */
import { cpSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { joinRing, type Job, type Ring, type RingInit, type RingRole } from "../../ring/index.ts";
import { parseSettings, type Settings } from "../../src/config/settings.ts";
import type { DataSet } from "../../src/data/dataset.ts";
import { parseSyntheticShape, syntheticDataSet } from "../../src/data/synthetic.ts";
import { RUN_FILES, RunFolder } from "../../src/metrics/run-folder.ts";
import { MemoryNetwork } from "../../src/net/memory.ts";
import type { Transport } from "../../src/net/transport.ts";
import { within } from "../../src/net/wait.ts";
import { newestCheckpoint } from "../../src/runtime/checkpoint.ts";
import { SerialRun } from "../../src/runtime/serial.ts";
import { StateFolder } from "../../src/runtime/state-folder.ts";

const LIMIT_MS = 10_000;

/** Fails the test, rather than hanging it. */
export const soon = <T>(promise: Promise<T>, what: string): Promise<T> =>
  within(promise, LIMIT_MS, () => {
    throw new Error(`${what} took more than ${LIMIT_MS} ms`);
  });

/** A small task: 48 samples to train on, 11 to test with. */
export function tinySettings(changes: Readonly<Record<string, unknown>> = {}): Settings {
  return parseSettings({
    ...{ model: "mlp:6-9-5-7-4", data: "synthetic:classes=4,features=6,samples=48,test=11", seed: 5 },
    ...{ nodes: 2, steps: 5, batch: 12, microBatches: 4, optimizer: "adam", lr: 0.02, timeline: "none" },
    ...changes,
  });
}

export const dataOf = ({ data, seed }: Settings): DataSet =>
  syntheticDataSet(parseSyntheticShape(data.slice("synthetic:".length)), seed);

export class Scratch {
  readonly #path = mkdtempSync(join(tmpdir(), "ringtmp-ring-"));
  #count = 0;

  folder(): RunFolder {
    this.#count += 1;
    return RunFolder.create(join(this.#path, String(this.#count)), false);
  }

  /** Of a new node, or of one that comes back with what it had in `earlier`. */
  state(earlier?: string): Promise<StateFolder> {
    this.#count += 1;
    const path = join(this.#path, String(this.#count));
    if (earlier !== undefined) cpSync(earlier, path, { recursive: true });
    return StateFolder.open(path);
  }

  remove(): void {
    rmSync(this.#path, { recursive: true, force: true });
  }
}

/** What a run leaves behind. */
export interface Outcome {
  readonly summary: Readonly<Record<string, unknown>>;
  readonly losses: readonly number[];
}

/** What must not depend on how the work was done. */
export const bits = ({ summary, losses }: Outcome) => ({
  losses,
  ...Object.fromEntries(
    ["steps", "weightsSha256", "initialWeightsSha256", "lossCurveSha256", "testAccuracy", "firstLoss", "finalLoss"].map(
      (name) => [name, summary[name]],
    ),
  ),
});

export const lossesOf = (folder: RunFolder): number[] =>
  folder.readLines(RUN_FILES.metrics).map((line) => (line as { readonly loss: number }).loss);

/** The same settings in one process. */
export async function runSerial(settings: Settings, folder: RunFolder): Promise<Outcome> {
  const init = {
    settings,
    data: dataOf(settings),
    folder,
    firstStep: 0,
    onCommitted: () => {},
    onNotDurable: () => {},
  };
  const summary = await soon(new SerialRun(init).train(), "the serial run");
  return { summary, losses: lossesOf(folder) };
}

export function jobOf(settings: Settings, firstStep = 0): Job {
  const data = dataOf(settings);
  return { job: "00c0ffee00c0ffee", settings, dataSha256: data.sha256, testCount: data.test.count, firstStep };
}

/** What a node says when it founds or joins; `changes` for what a test wants otherwise. */
export function ringInit(
  transport: Transport,
  state: StateFolder,
  role: RingInit["role"],
  changes: Partial<RingInit> = {},
): RingInit {
  const silent = { onPresent: () => {}, onCommitted: () => {}, onNotDurable: () => {}, onView: () => {} };
  return { role, transport, state, machine: "here", wish: null, invite: null, ...silent, ...changes };
}

/** Who comes to the ring at `address` and takes it as it is. */
export function joinerOf(address: string, expected: Extract<RingRole, { kind: "joiner" }>["expected"] = {}): RingRole {
  return { kind: "joiner", address, expected, data: ({ settings }) => Promise.resolve(dataOf(settings)) };
}

/** Nodes of one ring, formed and not yet training; the first is the founder. */
export async function formRing(settings: Settings, firstStep = 0, changes: Partial<RingInit> = {}) {
  const network = new MemoryNetwork();
  const scratch = new Scratch();
  const transports = Array.from({ length: settings.nodes }, (_, node) => network.join(`node-${node}`));
  const [address] = transports[0]!.addresses;
  const founder = { kind: "founder", job: jobOf(settings, firstStep), data: dataOf(settings) } as const;
  const states = await Promise.all(transports.map(() => scratch.state()));
  const forming = transports.map((transport, node) => {
    const given = node === 0 ? changes : { wish: node };
    return joinRing(ringInit(transport, states[node]!, node === 0 ? founder : joinerOf(address!), given));
  });
  const rings = await soon(Promise.all(forming), "the formation");
  const close = async (): Promise<void> => {
    await Promise.all(transports.map((transport) => transport.close()));
    scratch.remove();
  };
  return { rings, network, close };
}

/** Founds, trains to the end, and takes everything down. All nodes share `folder`, and must say the same. */
export async function runRing(
  settings: Settings,
  folder: RunFolder,
  options: { readonly firstStep?: number; readonly onCommitted?: (step: number, rings: readonly Ring[]) => void } = {},
): Promise<Outcome> {
  let members: readonly Ring[] = [];
  const onCommitted = (step: number): void => options.onCommitted?.(step, members);
  const { rings, close } = await formRing(settings, options.firstStep ?? 0, { onCommitted });
  members = rings;
  try {
    const outcomes = await soon(Promise.all(rings.map((ring) => ring.train(folder))), "training");
    const texts = new Set(outcomes.map(({ summary }) => JSON.stringify(summary)));
    if (texts.size !== 1) throw new Error("the nodes disagree about the summary");
    return { summary: outcomes[0]!.summary!, losses: lossesOf(folder) };
  } finally {
    await close();
  }
}

/** Goes on from the newest checkpoint of `folder`. */
export function resumeRing(settings: Settings, folder: RunFolder): Promise<Outcome> {
  const { step } = newestCheckpoint(folder, console.warn).manifest;
  folder.cutMetrics(step);
  return runRing(settings, folder, { firstStep: step });
}
