/**
 * @file The local control socket: each node process answers questions of its user's other processes, one JSON line each
 * way. Where a job's processes are found: one small file a node in the user's runtime folder (mode 0700).
 */
import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { createConnection, createServer, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { UsageError } from "../types/errors.ts";

const LINE_BYTES_MAX = 65_536;
const ANSWER_BYTES_MAX = 16 * 1024 * 1024;
/** A client's request, and a node's answer: a node that is stopped does not answer, and `status` must not wait for it. */
const REQUEST_LIMIT_MS = 1_000;
const ANSWER_LIMIT_MS = 200;

/** How to reach one running process of a job on this machine. */
export interface NodeEntry {
  readonly job: string;
  readonly name: string | null;
  readonly system: string;
  readonly out: string;
  readonly node: number;
  readonly pid: number;
  /** When the system started that process, so that another one with its number is never taken for it; null where /proc does not tell. */
  readonly born: string | null;
  readonly socket: string;
  readonly startedMs: number;
}

/** `cut` and `mend` name the peer at the link's other end; `host` is for servers, with the run that they are to serve as well, as JSON. */
export type ControlRequest = "status" | "stop" | "leave" | `cut ${string}` | `mend ${string}` | `host ${string}`;
const REQUEST = /^(?:status|stop|leave|(?:cut|mend) [A-Za-z0-9]{1,100}|host \{.*\})$/;

/** What a node answers to what is not a question. */
export type Obeyed = { readonly isDone: true } | { readonly isDone: false; readonly reason: string };

/** Owned by this user, closed to others. Throws UsageError where somebody else was there before. */
function runtimeFolder(): string {
  const base = process.env["XDG_RUNTIME_DIR"] || tmpdir();
  const user = process.getuid?.();
  const folder = join(base, `ringtmp-${user ?? "user"}`);
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  const found = lstatSync(folder);
  const isPrivate = found.isDirectory() && found.uid === user && (found.mode & 0o077) === 0;
  if (user === undefined || isPrivate) return folder;
  throw new UsageError(
    `${folder} does not belong to this user alone`,
    "remove it, or name a folder of your own in XDG_RUNTIME_DIR",
  );
}

/** Where node `node` of a job answers. */
export function controlSocket(job: string, node: string): string {
  return join(runtimeFolder(), `${job}-${node}.sock`);
}

export function entryFor(fields: Omit<NodeEntry, "socket" | "pid" | "born">): NodeEntry {
  const socket = controlSocket(fields.job, String(fields.node));
  const { pid } = process;
  return { ...fields, pid, born: statOf(pid)?.born ?? null, socket };
}

/** Answers requests until `close`, which also removes the entry. `answer` gives plain JSON data. */
export async function serveControl(
  entry: NodeEntry,
  answer: (request: ControlRequest) => unknown,
): Promise<{ close(): void }> {
  rmSync(entry.socket, { force: true });
  const server: Server = createServer((socket) => serveOne(socket, answer));
  server.unref();
  await new Promise<void>((done, failed) => {
    server.once("error", failed);
    server.listen(entry.socket, () => done());
  });
  chmodSync(entry.socket, 0o600);
  const file = entryFile(entry);
  writeFileSync(file, JSON.stringify(entry), { mode: 0o600 });
  return {
    close: () => {
      server.close();
      rmSync(file, { force: true });
      rmSync(entry.socket, { force: true });
    },
  };
}

function entryFile(entry: NodeEntry): string {
  return entry.socket.replace(/\.sock$/, ".json");
}

function serveOne(socket: Socket, answer: (request: ControlRequest) => unknown): void {
  let text = "";
  socket.setEncoding("utf8");
  socket.setTimeout(REQUEST_LIMIT_MS, () => socket.destroy());
  // A client that went away: its answer has no reader.
  socket.on("error", () => socket.destroy());
  socket.on("data", (part: string) => {
    text += part;
    if (text.length > LINE_BYTES_MAX) socket.destroy();
    if (!text.includes("\n")) return;
    const request = text.trim();
    if (REQUEST.test(request)) socket.end(`${JSON.stringify(answer(request as ControlRequest))}\n`);
    else socket.destroy();
  });
}

/** One question to one process; undefined where it does not answer in time, or not in one line of JSON. */
export async function ask(entry: NodeEntry, request: ControlRequest, limitMs = ANSWER_LIMIT_MS): Promise<unknown> {
  return new Promise((done) => {
    const socket = createConnection(entry.socket);
    let text = "";
    socket.setEncoding("utf8");
    socket.setTimeout(limitMs, () => socket.destroy());
    socket.on("connect", () => socket.write(`${request}\n`));
    socket.on("data", (part: string) => {
      text += part;
      if (text.length > ANSWER_BYTES_MAX) socket.destroy();
    });
    socket.on("error", () => done(undefined));
    socket.on("close", () => done(text.endsWith("\n") ? parseJson(text) : undefined));
  });
}

/** Processes of running jobs of this user on this machine, in node order; files that a killed process left are removed. */
export function runningNodes(): readonly NodeEntry[] {
  const folder = runtimeFolder();
  const entries: NodeEntry[] = [];
  for (const name of readdirSync(folder).filter((file) => file.endsWith(".json"))) {
    const file = join(folder, name);
    const entry = readEntry(file);
    if (entry === undefined) continue;
    if (isRunning(entry)) {
      entries.push(entry);
    } else {
      rmSync(file, { force: true });
      rmSync(entry.socket, { force: true });
    }
  }
  return entries.toSorted((a, b) => a.startedMs - b.startedMs || a.node - b.node);
}

/** Undefined where the process removed its file between our look and our read, or where it is no entry. */
function readEntry(file: string): NodeEntry | undefined {
  let text: string;
  try {
    text = readFileSync(file, "utf8");
  } catch {
    return undefined;
  }
  const value = parseJson(text);
  return isEntry(value) ? value : undefined;
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function isEntry(value: unknown): value is NodeEntry {
  if (typeof value !== "object" || value === null) return false;
  const { pid, socket, job, out } = value as Partial<NodeEntry>;
  return Number.isSafeInteger(pid) && [socket, job, out].every((text) => typeof text === "string");
}

/** Whether the process that wrote this entry lives, and not another one that got its number. */
export function isRunning({ pid, born }: NodeEntry): boolean {
  return isAlive(pid) && (born === null || statOf(pid)?.born === born);
}

/** Sends a signal to the node's own process. Returns false where it is gone. */
export function signalNode(entry: NodeEntry, signal: "SIGKILL" | "SIGSTOP" | "SIGCONT"): boolean {
  if (!isRunning(entry)) return false;
  try {
    return process.kill(entry.pid, signal);
  } catch {
    return false;
  }
}

export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
  } catch {
    return false;
  }
  // A zombie still answers signal 0 (where /proc is there to tell).
  return !existsSync("/proc/self/stat") || !["Z", undefined].includes(statOf(pid)?.state);
}

/** Whether a signal has stopped it; false also where /proc does not tell. */
export function isStopped({ pid }: NodeEntry): boolean {
  return statOf(pid)?.state === "T";
}

/** The system's letter for what a process does, and the tick of its start; undefined where /proc does not tell. */
function statOf(pid: number): { readonly state: string; readonly born: string } | undefined {
  let text: string;
  try {
    text = readFileSync(`/proc/${pid}/stat`, "utf8");
  } catch {
    return undefined;
  }
  // The program's name may hold anything: fields are counted from its closing bracket.
  const [state = "", ...fields] = text.slice(text.lastIndexOf(")") + 2).split(" ");
  return { state, born: fields[18] ?? "" };
}

/** True where `wanted` is the job's id, its name or its folder. */
export function isJob(entry: NodeEntry, wanted: string): boolean {
  if (entry.job === wanted || entry.name === wanted) return true;
  const folder = resolve(wanted);
  return entry.out === folder || (existsSync(folder) && realpathSync(folder) === entry.out);
}
