/** @file `status`, `why`, `jobs`, `stop`: questions to running processes over their local sockets. No network stack is loaded. */
import { ask, isJob, runningNodes, type NodeEntry } from "../runtime/process-control.ts";
import { nowMs } from "../runtime/clock.ts";
import { ExitCode, UsageError } from "../types/errors.ts";
import { formatSeconds } from "./progress.ts";
import { explainWaits, type NodeState, type RingMember } from "./waits.ts";

type Options = Readonly<Record<string, unknown>>;

/** What a node's process answers. */
interface NodeStatus {
  readonly job: string;
  readonly system: string;
  readonly view: number;
  readonly step: number;
  readonly steps: number;
  readonly node: number;
  readonly pid: number;
  readonly state: string;
  readonly loss: number | null;
  readonly counts?: { readonly credits: readonly (number | null)[] };
  readonly idlePercent: number;
  readonly members: readonly {
    readonly node: number;
    readonly peerId: string;
    readonly addresses: readonly string[];
    readonly layers: readonly (readonly [number, number])[];
  }[];
}

/** What every node of a job's says that answers here; the first one stands for what they share. */
async function askJob(options: Options) {
  const entries = findJob(options["job"]);
  const answers = await Promise.all(
    entries.map(async (entry) => (await ask(entry, "status")) as NodeStatus | undefined),
  );
  const present = answers.filter((answer) => answer !== undefined);
  const [first] = present;
  if (first === undefined)
    throw new UsageError(`job ${entries[0]?.job} does not answer`, "it may be ending or stopped; try again");
  return { entries, present, first };
}

export async function status(options: Options): Promise<number> {
  const { entries, present, first } = await askJob(options);
  const nodes = first.members.map((member) => ({
    ...member,
    ...nodeState(
      present.find((answer) => answer.node === member.node),
      entries,
      member.node,
    ),
  }));
  const step = Math.max(...present.map((answer) => answer.step));
  if (options["json"] === true) {
    process.stdout.write(
      `${JSON.stringify({ job: first.job, system: first.system, step, view: first.view, loss: first.loss, nodes })}\n`,
    );
    return ExitCode.done;
  }
  const loss = first.loss === null ? "" : `, loss ${first.loss.toFixed(4)}`;
  const lines = [`job ${first.job} (${first.system}): step ${step} of ${first.steps}, view ${first.view}${loss}`];
  lines.push("node  pid      layers   state     step   idle %  credits");
  for (const node of nodes) {
    const layers = node.layers.map(([start, end]) => `${start}-${end - 1}`).join(" ");
    const cells = [
      String(node.node).padEnd(5),
      String(node.pid ?? "remote").padEnd(8),
      layers.padEnd(8),
      node.state.padEnd(9),
    ];
    lines.push(
      [
        ...cells,
        String(node.step ?? "").padEnd(6),
        (node.idlePercent?.toFixed(1) ?? "").padEnd(7),
        node.credits ?? "",
      ].join(" "),
    );
  }
  process.stdout.write(`${lines.join("\n")}\n`);
  return ExitCode.done;
}

/** Who waits for what, from whom, since when. */
export async function why(options: Options): Promise<number> {
  const { entries, present, first } = await askJob(options);
  const members = first.members.map(({ node }): RingMember => {
    const state = present.find((answer) => answer.node === node);
    const pid = entries.find((entry) => entry.node === node)?.pid ?? null;
    return { node, pid, state: state !== undefined && "lacks" in state ? (state as unknown as NodeState) : undefined };
  });
  const { nodes, cause } = explainWaits(members);
  if (options["json"] === true) {
    process.stdout.write(`${JSON.stringify({ job: first.job, step: first.step, nodes, cause })}\n`);
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

/** A node of another machine is known from the view alone. */
function nodeState(answer: NodeStatus | undefined, entries: readonly NodeEntry[], node: number) {
  const entry = entries.find((each) => each.node === node);
  if (answer === undefined)
    return {
      pid: entry?.pid ?? null,
      state: entry === undefined ? "training" : "paused",
      step: null,
      idlePercent: null,
      credits: null,
    };
  const { pid, state, step, idlePercent, counts } = answer;
  const credits = counts?.credits.reduce<number>((sum, lap) => sum + (lap ?? 0), 0) ?? null;
  return { pid, state, step, idlePercent, credits };
}

/** The one running job, or the one that is named. */
function findJob(wanted: unknown): readonly NodeEntry[] {
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
