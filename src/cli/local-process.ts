/**
 * @file One node's process as its launcher has it: started, told what to be, heard. A system that is short of processes, files or memory
 * refuses a start in several ways (it throws, says so later, or gives a process without a channel); here they are all one end.
 */
import { fork, type ChildProcess } from "node:child_process";
import type { ParentMessage } from "./node.ts";
import type { NodeEvent } from "./run-node.ts";

/** What a node drops is dropped within a message's time: a small young generation saves 25 MiB and costs nothing measurable. */
const YOUNG_GENERATION = "--max-semi-space-size=4";

export type ProcessEnd =
  | { readonly kind: "exited"; readonly code: number | null; readonly signal: string | null }
  | { readonly kind: "notStarted"; readonly reason: string };

export interface LocalProcessEvents {
  readonly heard: (event: NodeEvent) => void;
  /** Once, and never before `startProcess` returns. */
  readonly ended: (end: ProcessEnd) => void;
}

export type LocalProcess = Pick<ChildProcess, "pid" | "killed" | "connected" | "kill" | "send">;

/** Of which the system has not even a number. */
const NONE: LocalProcess = { pid: undefined, killed: false, connected: false, kill: () => false, send: () => false };

/** Never throws. */
export function startProcess(first: ParentMessage, { heard, ended }: LocalProcessEvents): LocalProcess {
  let hasEnded = false;
  const end = (how: ProcessEnd): void => {
    if (!hasEnded) ended(how);
    hasEnded = true;
  };
  const notStarted = (error: unknown): void => end({ kind: "notStarted", reason: (error as Error).message });
  let child: ChildProcess | undefined;
  try {
    child = fork(new URL("./main.ts", import.meta.url), ["node"], {
      execArgv: [...process.execArgv, YOUNG_GENERATION],
      detached: true,
      stdio: ["ignore", "ignore", "ignore", "ipc"],
    });
    child.on("message", heard);
    // A process that could not be started has no exit to wait for; of another one an error says nothing that its exit does not.
    child.on("error", (error) => child?.pid ?? notStarted(error));
    child.on("exit", (code, signal) => end({ kind: "exited", code, signal }));
    child.send(first);
  } catch (error) {
    // Later, when the system has said what it has to say: without a channel there is nothing to send with, which is not the cause.
    setImmediate(notStarted, error);
  }
  return child ?? NONE;
}
