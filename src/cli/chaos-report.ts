/**
 * @file What a run under faults came to: each fault's times from the nodes' own events, and whether anything differs from the run that nobody
 * disturbed. Pure. Times are of one machine's clock.
 */
import type { MetricsLine } from "../metrics/run-folder.ts";
import { lossCurveSha256, type RecoveryRecord } from "../metrics/summary.ts";
import type { Fault } from "./chaos-run.ts";

/** Processes of one machine read clocks that were set once each. */
const CLOCK_DIFFERENCE_MS = 5;

type Line = Readonly<Record<string, unknown>>;

export interface RunFiles {
  readonly summary: Line;
  readonly metrics: readonly MetricsLine[];
}

export interface ReportInit {
  readonly faults: readonly Fault[];
  readonly startedMs: number;
  readonly told: ReadonlyMap<number, number>;
  readonly retold: readonly number[];
  readonly stuck: string | null;
  /** Lines of `events.jsonl`. */
  readonly events: readonly Line[];
  readonly run: RunFiles;
  readonly reference: RunFiles;
}

interface ViewEvent {
  readonly timeMs: number;
  readonly view: number;
  readonly removed: readonly { readonly node: number }[];
}

type RecoveredEvent = RecoveryRecord & { readonly timeMs: number };

export interface FaultTimes {
  /** Null where no view went on without the node: it was back in time. */
  readonly faultToDetectedMs: number | null;
  readonly faultToResumedMs: number | null;
  readonly recomputedSteps: number;
}

export function buildReport(init: ReportInit) {
  const { faults, startedMs, told, run, reference } = init;
  const times = timesOf(init);
  const byFault = faults.map(({ kind, step, blows }, index) => ({
    ...{ kind, nodes: blows.map(({ node }) => node), step },
    atMs: rounded(Math.min(...blows.map(({ signalMs }) => signalMs)) - startedMs),
    ...worst(times[index]!),
  }));
  const lost = [...told].filter(([step, loss]) => run.metrics[step]?.loss !== loss).map(([step]) => step);
  const lostSteps = [...new Set([...lost, ...init.retold])];
  const differences = differencesOf(init, lostSteps);
  return {
    ...{ isEqual: differences.length === 0, differences, steps: run.summary["steps"] },
    ...{ faults: byFault, faultToDetectedMs: percentiles(byFault.map((fault) => fault.faultToDetectedMs)) },
    faultToResumedMs: percentiles(byFault.map((fault) => fault.faultToResumedMs)),
    recomputedSteps: byFault.reduce((sum, fault) => sum + fault.recomputedSteps, 0),
    lostCommittedSteps: lostSteps.length,
    views: run.summary["views"],
    run: digestsOf(run.summary),
    reference: digestsOf(reference.summary),
  };
}

export type ChaosReport = ReturnType<typeof buildReport>;

/** `recoveries` of the run's summary with the times from the signals. */
export function recoveriesWithTimes(init: ReportInit): readonly Line[] {
  const times = timesOf(init).flat();
  const recoveries = init.run.summary["recoveries"] as readonly RecoveryRecord[];
  return recoveries.map((recovery) => {
    const found = times.find(({ node, view }) => node === recovery.node && view === recovery.view);
    const { faultToDetectedMs = null, faultToResumedMs = null } = found ?? {};
    return { ...recovery, faultToDetectedMs, faultToResumedMs };
  });
}

interface BlowTimes extends FaultTimes {
  readonly node: number;
  readonly view: number | null;
}

/** Of each node that was hit, by fault. A fault's events end where the next one begins. */
function timesOf({ faults, events }: ReportInit): readonly (readonly BlowTimes[])[] {
  const views = events.filter(({ kind }) => kind === "view") as unknown as readonly ViewEvent[];
  const recovered = events.filter(({ kind }) => kind === "recovered") as unknown as readonly RecoveredEvent[];
  return faults.map(({ blows }, index) => {
    const endMs = faults[index + 1]?.blows[0]?.signalMs ?? Infinity;
    return blows.map(({ node, signalMs }): BlowTimes => {
      const isOf = (timeMs: number): boolean => timeMs >= signalMs - CLOCK_DIFFERENCE_MS && timeMs < endMs;
      const seen = views.find(({ timeMs, removed }) => isOf(timeMs) && removed.some((each) => each.node === node));
      const back = recovered.find((each) => each.node === node && each.view === seen?.view);
      return {
        ...{ node, view: seen?.view ?? null },
        faultToDetectedMs: seen === undefined ? null : rounded(Math.max(0, seen.timeMs - signalMs)),
        faultToResumedMs: back === undefined ? null : rounded(Math.max(0, back.timeMs - signalMs)),
        recomputedSteps: back?.recomputedSteps ?? 0,
      };
    });
  });
}

/** A fault is over when its last node's is. */
function worst(times: readonly BlowTimes[]): FaultTimes {
  const most = (values: readonly (number | null)[]): number | null => {
    const known = values.filter((value) => value !== null);
    return known.length === 0 ? null : Math.max(...known);
  };
  const byView = new Map(times.map(({ view, recomputedSteps }) => [view, recomputedSteps]));
  return {
    faultToDetectedMs: most(times.map(({ faultToDetectedMs }) => faultToDetectedMs)),
    faultToResumedMs: most(times.map(({ faultToResumedMs }) => faultToResumedMs)),
    recomputedSteps: [...byView.values()].reduce((sum, steps) => sum + steps, 0),
  };
}

/** By nearest rank; null without values. */
export function percentiles(values: readonly (number | null)[]) {
  const sorted = values.filter((value) => value !== null).toSorted((a, b) => a - b);
  const at = (part: number): number => sorted[Math.max(0, Math.ceil(part * sorted.length) - 1)]!;
  return sorted.length === 0 ? null : { count: sorted.length, p50: at(0.5), p99: at(0.99), max: sorted.at(-1)! };
}

const DIGESTS = ["weightsSha256", "lossCurveSha256", "initialWeightsSha256", "testAccuracy"] as const;

const digestsOf = (summary: Line) =>
  Object.fromEntries(DIGESTS.map((name) => [name, summary[name] ?? null])) as Readonly<
    Record<(typeof DIGESTS)[number], string | number | null>
  >;

/** One line each; none where the runs are the same. */
function differencesOf({ run, reference, stuck }: ReportInit, lostSteps: readonly number[]): readonly string[] {
  const told: string[] = stuck === null ? [] : [stuck];
  for (const name of ["steps", ...DIGESTS]) {
    const [mine, other] = [run.summary[name], reference.summary[name]];
    if (mine !== other) told.push(`${name} is ${String(mine)}, undisturbed ${String(other)}`);
  }
  const losses = run.metrics.map(({ loss }) => loss);
  const step = reference.metrics.findIndex(({ loss }, index) => loss !== losses[index]);
  if (step >= 0) told.push(`the loss of step ${step} is ${losses[step]}, undisturbed ${reference.metrics[step]?.loss}`);
  const wrong = run.metrics.findIndex((line, index) => line.step !== index);
  if (wrong >= 0) told.push(`line ${wrong + 1} of metrics.jsonl is step ${run.metrics[wrong]?.step}, not ${wrong}`);
  if (run.metrics.length !== run.summary["steps"]) {
    told.push(`metrics.jsonl holds ${run.metrics.length} steps, the summary ${String(run.summary["steps"])}`);
  }
  if (lossCurveSha256(losses) !== run.summary["lossCurveSha256"]) told.push("metrics.jsonl is not the summary's curve");
  if (lostSteps.length > 0) told.push(`committed steps were lost or changed: ${lostSteps.slice(0, 10).join(", ")}`);
  return told;
}

const rounded = (milliseconds: number): number => Math.round(milliseconds * 10) / 10;
