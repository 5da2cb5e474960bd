/**
 * @file A node's process, started by `up`: its parent tells it what to be in the first message and hears its events. The
 * parent may die: the node finishes the run, or ends with it, as `--orphans` says.
 */
import { NodeProcess, type NodeEvent, type NodeProcessInit } from "./run-node.ts";
import { PsProcess, type PsProcessInit } from "./ps-process.ts";
import type { ToldError } from "./failure.ts";
import { ExitCode } from "../types/errors.ts";

export type ParentMessage =
  | { readonly kind: "init"; readonly init: NodeProcessInit | PsProcessInit; readonly orphans: "finish" | "end" }
  | { readonly kind: "stop" };

/** Progress goes to the parent at most this often. */
const COMMITTED_INTERVAL_MS = 50;

export async function runNodeCommand(): Promise<void> {
  const first = Promise.withResolvers<Extract<ParentMessage, { kind: "init" }>>();
  let node: NodeProcess | PsProcess | undefined;
  let isStopWanted = false;
  // It may come with the very first message, before there is a node.
  const stop = (): void => {
    isStopWanted = true;
    node?.requestStop();
  };
  process.on("message", (message: ParentMessage) => {
    if (message.kind === "init") first.resolve(message);
    else stop();
  });
  const { init, orphans } = await first.promise;
  process.on("disconnect", () => {
    if (orphans === "end") process.exit(ExitCode.interrupted);
  });
  // A user may end one node with a signal: the ring then stops in order.
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, stop);
  const emit = throttled(tellParent);
  node = "system" in init ? new PsProcess(init, emit) : new NodeProcess(init, emit);
  if (isStopWanted) node.requestStop();
  process.on("uncaughtException", (error) => void exitWith(node?.fail(error)));
  await exitWith(await node.run());
}

async function exitWith(failure: ToldError | undefined): Promise<never> {
  await told;
  process.exit(failure?.exitCode ?? ExitCode.done);
}

/** Resolves when the parent has the newest event, or is gone. */
let told: Promise<void> = Promise.resolve();

function tellParent(event: NodeEvent): void {
  // The parent may be gone at any moment: then nobody listens, and that is fine.
  if (process.connected) told = new Promise((done) => process.send?.(event, () => done()));
}

function throttled(emit: (event: NodeEvent) => void): (event: NodeEvent) => void {
  let held: NodeEvent | undefined;
  let timer: NodeJS.Timeout | undefined;
  const flush = (): void => {
    clearTimeout(timer);
    timer = undefined;
    if (held !== undefined) emit(held);
    held = undefined;
  };
  return (event) => {
    if (event.kind !== "committed") {
      flush();
      emit(event);
      return;
    }
    held = event;
    timer ??= setTimeout(flush, COMMITTED_INTERVAL_MS).unref();
  };
}
