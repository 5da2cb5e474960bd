/** @file `status`, `why`, `jobs`, `stop`: questions to running processes over their local sockets. No network stack is loaded. */
import { ask, isStopped, runningNodes } from "../runtime/process-control.ts";
import { nowMs } from "../runtime/clock.ts";
import { ExitCode, UsageError } from "../types/errors.ts";
import { askJob, findJob, type JobAnswers, type ToldMember } from "./job-answers.ts";
import { formatSeconds } from "./progress.ts";
import { explainWaits, pauseOf, type RingMember } from "./waits.ts";

type Options = Readonly<Record<string, unknown>>;

export async function status(options: Options): Promise<number> {
  const answers = await askJob(options["job"]);
  const { present, newest } = answers;
  const nodes = newest.members.map((member) => nodeStatus(answers, member)).toSorted((a, b) => a.node - b.node);
  const step = Math.max(...present.map((answer) => answer.step));
  const { job, system, view, steps } = newest;
  // Of a parameter server the task scheduler alone knows it.
  const loss = newest.loss ?? present.find((answer) => answer.loss !== null)?.loss ?? null;
  const waitsFor = pauseOf(answers.present);
  if (options["json"] === true) {
    process.stdout.write(`${JSON.stringify({ job, system, step, view, loss, waitsFor, nodes })}\n`);
    return ExitCode.done;
  }
  const lossText = loss === null ? "" : `, loss ${loss.toFixed(4)}`;
  const lines = [`job ${job} (${system}): step ${step} of ${steps}, view ${view}${lossText}`];
  if (waitsFor !== null) lines.push(`paused: ${waitsFor}`);
  const last = system === "ps" ? "role, lag" : "credits";
  lines.push(`node  pid      layers   state      step   idle %  ${last}`, ...nodes.map(statusLine));
  process.stdout.write(`${lines.join("\n")}\n`);
  return ExitCode.done;
}

type NodeRow = ReturnType<typeof nodeStatus>;

function nodeStatus({ present, entries, newest }: JobAnswers, member: ToldMember) {
  const { node, peerId, addresses, layers } = member;
  const answer = present.find((each) => each.node === node);
  const entry = entries.find((each) => each.node === node);
  const isHere = member.machine === newest.machine;
  const role = member.role === undefined ? {} : { role: member.role, lag: answer?.lag ?? null };
  const told = { node, ...role, peerId, addresses, layers, pid: answer?.pid ?? entry?.pid ?? null, isHere };
  if (answer !== undefined && member.gone === undefined) {
    const { state, step, idlePercent, counts } = answer;
    const credits = counts?.credits.reduce<number>((sum, lap) => sum + (lap ?? 0), 0) ?? null;
    return { ...told, state, step, idlePercent, credits };
  }
  const silent = { step: null, idlePercent: null, credits: null };
  if (entry !== undefined && isStopped(entry)) return { ...told, state: "paused", ...silent };
  // A process that runs and has no say in the view is on its way back.
  if (member.gone !== undefined) return { ...told, state: entry === undefined ? member.gone : "joining", ...silent };
  // One that runs but does not answer in time is busy; of other machines only the view is known.
  if (entry === undefined && isHere) return { ...told, state: "dead", ...silent };
  return { ...told, state: "training", ...silent };
}

function statusLine({ node, pid, isHere, layers, state, step, idlePercent, credits, role, lag }: NodeRow): string {
  return [
    String(node).padEnd(5),
    String(pid ?? (isHere ? "-" : "remote")).padEnd(8),
    layers.map(([start, end]) => `${start}-${end - 1}`).join(" ").padEnd(8), // prettier-ignore
    state.padEnd(10),
    String(step ?? "").padEnd(6),
    (idlePercent?.toFixed(1) ?? "").padEnd(7),
    role === undefined ? (credits ?? "") : `${role}${typeof lag === "number" ? `, ${lag}` : ""}`,
  ].join(" ");
}

/** Of a node that is between two views, or in none yet. */
const NOT_TRAINING = {
  ...{ phase: "joining", running: null, idleSinceMs: null, lacks: [] },
  counts: { forwarded: [], activations: [], gradients: [], backwarded: [] },
} as const;

/** Who waits for what, from whom, since when. */
export async function why(options: Options): Promise<number> {
  const { entries, present, newest } = await askJob(options["job"]);
  if (newest.system === "ps") {
    throw new UsageError("why of a parameter server: not in this version", "ringtmp status shows its processes");
  }
  const order = newest.owners ?? newest.members.map(({ node }) => node);
  const current = newest.members.filter(({ gone }) => gone === undefined);
  const members = current.map(({ node, machine }): RingMember => {
    const state = present.find((answer) => answer.node === node);
    const pid = entries.find((entry) => entry.node === node)?.pid ?? null;
    return { node, pid, isHere: machine === newest.machine, state: state && { ...NOT_TRAINING, ...state } };
  });
  const { nodes, cause } = explainWaits(members, order);
  if (options["json"] === true) {
    process.stdout.write(`${JSON.stringify({ job: newest.job, step: newest.step, nodes, cause })}\n`);
    return ExitCode.done;
  }
  const lines = nodes.map(({ node, step, does, sinceMs, waits }) => {
    const since = sinceMs === null ? "" : `, for ${formatWait(sinceMs)}`;
    const what = waits.map((wait) => `${wait.for}${wait.from === null ? "" : ` from node ${wait.from}`}`).join("; or ");
    return `node ${node}: ${step === null ? "" : `step ${step}, `}${does}${what === "" ? "" : ` for ${what}`}${since}`;
  });
  process.stdout.write(`${[...lines, cause ?? "nothing is stuck: somebody computes"].join("\n")}\n`);
  return ExitCode.done;
}

function formatWait(milliseconds: number): string {
  return milliseconds < 1000 ? `${milliseconds.toFixed(1)} ms` : formatSeconds(milliseconds / 1000);
}

export async function jobs(options: Options): Promise<number> {
  const byJob = Map.groupBy(runningNodes(), (entry) => entry.job);
  const rows = [...byJob].map(([job, [first, ...others]]) => ({
    job,
    name: first?.name ?? null,
    system: first?.system ?? "",
    out: first?.out ?? "",
    nodes: 1 + others.length,
    startedMs: first?.startedMs ?? 0,
  }));
  if (options["json"] === true) {
    process.stdout.write(`${JSON.stringify(rows)}\n`);
  } else if (rows.length === 0) {
    process.stdout.write("no job runs\n");
  } else {
    const lines = rows.map((row) => {
      const age = formatSeconds((nowMs() - row.startedMs) / 1000);
      return `${row.job}  ${row.system.padEnd(7)} ${String(row.nodes).padStart(2)} here  for ${age.padEnd(8)} ${row.name ?? ""} ${row.out}`;
    });
    process.stdout.write(`${lines.join("\n")}\n`);
  }
  return ExitCode.done;
}

/** Asks every local node, since one of them may not answer; the first stage ends the run after its step. */
export async function stop(job: string): Promise<number> {
  const entries = findJob(job);
  const answers = await Promise.all(entries.map((entry) => ask(entry, "stop")));
  if (answers.every((answer) => answer === undefined)) {
    throw new UsageError(
      `job ${job} does not answer`,
      `its processes are ${entries.map((entry) => entry.pid).join(", ")}`,
    );
  }
  process.stdout.write(`job ${entries[0]?.job} ends after its step; results in ${entries[0]?.out}\n`);
  return ExitCode.done;
}
