/** @file A running job as its processes on this machine tell it over their local sockets. No network stack is loaded. */
import { ask, isJob, isStopped, runningNodes, type NodeEntry } from "../runtime/process-control.ts";
import { UsageError } from "../types/errors.ts";
import type { NodeState, RecoveryState } from "./waits.ts";

export interface ToldMember {
  readonly node: number;
  readonly peerId: string;
  readonly addresses: readonly string[];
  /** Nodes with the same one share a machine and a folder; a process alone has none. */
  readonly machine?: string;
  /** `[start, end)` a lap; none for a spare. */
  readonly layers: readonly (readonly [number, number])[];
  /** Of a parameter server's process. */
  readonly role?: string;
  /** Of one that was in an earlier view and is in none now. */
  readonly gone?: "left" | "dead";
}

/** What a node's process answers; what it waits for only while it trains. */
export interface NodeStatus extends Partial<Pick<NodeState, "phase" | "running" | "idleSinceMs" | "lacks">> {
  readonly job: string;
  readonly system: string;
  readonly view: number;
  readonly step: number;
  readonly steps: number;
  readonly node: number;
  readonly pid: number;
  readonly state: string;
  readonly loss: number | null;
  readonly idlePercent: number;
  /** Of a parameter server: by how many steps the newest share's parameters lagged; null where it computes none. */
  readonly lag?: number | null;
  readonly counts?: NodeState["counts"] & { readonly credits: readonly (number | null)[] };
  readonly recovery?: RecoveryState | null;
  readonly machine?: string;
  /** In ring order. */
  readonly owners?: readonly number[];
  readonly replicas?: number;
  readonly members: readonly ToldMember[];
}

export interface JobAnswers {
  readonly entries: readonly NodeEntry[];
  readonly present: readonly NodeStatus[];
  /** Of the newest view: it stands for what all share. */
  readonly newest: NodeStatus;
}

/** What every node of a job says that answers here. Throws UsageError where the job is not found, or nobody answers. */
export async function askJob(wanted: unknown): Promise<JobAnswers> {
  const entries = findJob(wanted);
  const present = await askAll(entries);
  const newest = newestOf(present);
  if (newest !== undefined) return { entries, present, newest };
  throw new UsageError(`job ${entries[0]?.job} does not answer`, "it may be ending or stopped; try again");
}

/** Of those that can answer now. */
export async function askAll(entries: readonly NodeEntry[]): Promise<readonly NodeStatus[]> {
  const running = entries.filter((entry) => !isStopped(entry));
  const answers = await Promise.all(running.map((entry) => ask(entry, "status")));
  return answers.filter((answer) => answer !== undefined) as NodeStatus[];
}

export function newestOf(answers: readonly NodeStatus[]): NodeStatus | undefined {
  return answers.toSorted((a, b) => b.view - a.view)[0];
}

/** The one running job, or the one that is named. */
export function findJob(wanted: unknown): readonly NodeEntry[] {
  const all = runningNodes();
  const named = typeof wanted === "string" ? all.filter((entry) => isJob(entry, wanted)) : all;
  const ids = [...new Set(named.map((entry) => entry.job))];
  const [job] = ids;
  if (job === undefined) {
    const what = typeof wanted === "string" ? `no running job is "${wanted}"` : "no job runs";
    throw new UsageError(what, "ringtmp jobs lists the running jobs of this user on this machine");
  }
  if (ids.length > 1) throw new UsageError(`${ids.length} jobs run: ${ids.join(", ")}`, "name one with --job");
  return named;
}
