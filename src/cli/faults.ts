/**
 * @file `kill`, `pause`, `resume`, `leave`, `cut`, `mend`: faults on a running local job. Signals go to the process that the node's entry
 * names, the rest over its local socket.
 */
import { ask, signalNode, type ControlRequest, type NodeEntry, type Obeyed } from "../runtime/process-control.ts";
import { ExitCode, UsageError } from "../types/errors.ts";
import { askAll, findJob, newestOf, type NodeStatus } from "./job-answers.ts";

type Options = Readonly<Record<string, unknown>>;

const SIGNALS = { kill: "SIGKILL", pause: "SIGSTOP", resume: "SIGCONT" } as const;
const SIGNALLED = { kill: "killed", pause: "paused", resume: "resumed" } as const;

export async function signal(word: keyof typeof SIGNALS, wanted: string, options: Options): Promise<number> {
  const job = await findNodes(options["job"]);
  const entry = localNode(job, parseNode(wanted, job));
  if (word === "kill") warnWithoutReplicas(job, `the run ends with node ${entry.node}`);
  if (!signalNode(entry, SIGNALS[word])) throw ended(entry);
  process.stdout.write(`node ${entry.node} (process ${entry.pid}) is ${SIGNALLED[word]}\n`);
  return ExitCode.done;
}

export async function leave(wanted: string, options: Options): Promise<number> {
  const job = await findNodes(options["job"]);
  const entry = localNode(job, parseNode(wanted, job));
  warnWithoutReplicas(job, `the run ends in order after its step (go on with ringtmp up --resume ${entry.out})`);
  await obey(entry, "leave");
  process.stdout.write(`node ${entry.node} leaves the ring at the end of a step\n`);
  return ExitCode.done;
}

/** Both ends of a link cut, or mend, for themselves. */
export async function link(word: "cut" | "mend", wanted: readonly [string, string], options: Options): Promise<number> {
  const job = await findNodes(options["job"]);
  const [a, b] = wanted.map((node) => parseNode(node, job)) as [number, number];
  if (a === b) throw new UsageError(`node ${a} has no link to itself`, `name two nodes of ${job.nodes.join(", ")}`);
  const ends = [
    { node: a, peerId: peerIdOf(job, b) },
    { node: b, peerId: peerIdOf(job, a) },
  ];
  const here = ends.filter(({ node }) => job.entries.some((entry) => entry.node === node));
  if (here.length === 0) localNode(job, a);
  for (const { node, peerId } of here) await obey(localNode(job, node), `${word} ${peerId}`);
  const done = word === "cut" ? "cut" : "mended";
  process.stdout.write(`the link between node ${a} and node ${b} is ${done}\n`);
  for (const { node } of ends.filter((end) => !here.includes(end))) {
    const where = goneText(job, node) ?? "is on another machine: run the same command there";
    process.stderr.write(`warning: only one end is ${done}: node ${node} ${where}\n`);
  }
  return ExitCode.done;
}

interface Nodes {
  readonly entries: readonly NodeEntry[];
  /** Undefined where nobody answers: all may be paused. */
  readonly newest: NodeStatus | undefined;
  readonly nodes: readonly number[];
}

async function findNodes(wanted: unknown): Promise<Nodes> {
  const entries = findJob(wanted);
  const newest = newestOf(await askAll(entries));
  const known = [...(newest?.members ?? []), ...entries].map(({ node }) => node);
  return { entries, newest, nodes: [...new Set(known)].toSorted((a, b) => a - b) };
}

function parseNode(text: string, { entries, nodes }: Nodes): number {
  const node = /^\d{1,9}$/.test(text) ? Number(text) : -1;
  if (nodes.includes(node)) return node;
  throw new UsageError(`job ${entries[0]?.job} has no node "${text}"`, `its nodes are ${nodes.join(", ")}`);
}

function localNode(job: Nodes, node: number): NodeEntry {
  const entry = job.entries.find((each) => each.node === node);
  if (entry !== undefined) return entry;
  const gone = goneText(job, node);
  if (gone !== undefined) throw new UsageError(`node ${node} ${gone}`, "ringtmp status lists the nodes that run");
  throw new UsageError(`node ${node} is on another machine`, "run the same command there");
}

/** Undefined for a node that runs, as far as can be told here. */
function goneText({ newest }: Nodes, node: number): string | undefined {
  const member = newest?.members.find((each) => each.node === node);
  if (member?.gone === "left") return "has left the ring";
  return member?.gone === "dead" || member?.machine === newest?.machine ? "is dead" : undefined;
}

function peerIdOf({ newest, entries }: Nodes, node: number): string {
  const peerId = newest?.members.find((member) => member.node === node)?.peerId;
  if (peerId !== undefined && peerId !== "") return peerId;
  throw new UsageError(`job ${entries[0]?.job} does not say who node ${node} is`, "wait until the ring trains");
}

function warnWithoutReplicas({ newest }: Nodes, consequence: string): void {
  if (newest?.replicas === 0 || newest?.system === "serial") {
    process.stderr.write(`warning: the job has no replicas: ${consequence}\n`);
  }
}

async function obey(entry: NodeEntry, request: ControlRequest): Promise<void> {
  const answer = (await ask(entry, request)) as Obeyed | undefined;
  if (answer?.isDone === true) return;
  const reason = answer?.reason ?? `its process ${entry.pid} does not answer: it is paused, or very busy`;
  throw new UsageError(
    `node ${entry.node}: ${reason}`,
    `try again, after ringtmp resume ${entry.node} if it is paused`,
  );
}

function ended({ node, pid }: NodeEntry): UsageError {
  return new UsageError(`node ${node} (process ${pid}) has just ended`, "ringtmp status lists the nodes that run");
}
