/** @file Why a run ends early: in words for the other nodes, and as the error that this node's command ends with. */
import { unreachable } from "../../src/types/assert.ts";
import { NetworkError, NodeLostError, NotFiniteError, UsageError } from "../../src/types/errors.ts";
import { checkpointSteps } from "../../src/runtime/checkpoint.ts";
import type { RunFolder } from "../../src/metrics/run-folder.ts";
import type { LinkEnd } from "../../src/net/link.ts";
import { peersOf, type RingView } from "../core/view.ts";
import type { LinkRole } from "./edges.ts";
import type { AnnouncementBody, Failure } from "./messages.ts";

export type NodeFailure =
  | { readonly kind: "announced"; readonly failure: Failure }
  | {
      readonly kind: "refused";
      readonly node: number;
      readonly neighbour: number;
      readonly by: "us" | "peer";
      readonly reason: string;
    }
  | { readonly kind: "thrown"; readonly node: number; readonly error: unknown };

export function memoryExceeded(node: number, residentBytes: number, memoryLimit: string | null): UsageError {
  const needed = Math.ceil(residentBytes / (1024 * 1024));
  return new UsageError(
    `node ${node} takes ${needed} MiB, more than --memory-limit ${memoryLimit}`,
    `use --memory-limit ${Math.ceil(1.1 * needed)}MiB or more, a smaller model, or more nodes`,
  );
}

/** What the end of an edge means where a dead node ends the run; undefined for one in order. */
export function edgeFailure(
  end: LinkEnd,
  role: LinkRole,
  neighbour: number,
  { node, step }: { readonly node: number; readonly step: number },
): NodeFailure | undefined {
  switch (end.kind) {
    case "goodbye":
      // All that this node still waits for would have come from its predecessor; the successor may be done earlier.
      return role === "forward" ? { kind: "announced", failure: { kind: "lost", node: neighbour, step } } : undefined;
    case "lost":
      return { kind: "announced", failure: { kind: "lost", node: neighbour, step } };
    case "refused":
      return { kind: "refused", node, neighbour, by: end.by, reason: end.reason };
    case "failed":
      return { kind: "thrown", node, error: end.error };
  }
  return unreachable(end);
}

type FailureBody = Extract<AnnouncementBody, { kind: "failure" }>;

/** What the neighbours are told, and what the command ends with. */
export function failureError(
  failure: NodeFailure,
  folder: RunFolder,
  view: RingView,
): { readonly body: FailureBody; readonly error: unknown } {
  switch (failure.kind) {
    case "announced":
      return {
        body: { kind: "failure", failure: failure.failure },
        error: announcedError(failure.failure, folder, view),
      };
    case "refused": {
      const who =
        failure.by === "us"
          ? `node ${failure.neighbour} broke the protocol`
          : `node ${failure.neighbour} refused a frame`;
      const message = `${who}: ${failure.reason}`;
      return {
        body: errorBody(failure.node, message),
        error: new NetworkError(message, "run the same build on every node"),
      };
    }
    case "thrown": {
      const message =
        failure.error instanceof Error ? `${failure.error.name}: ${failure.error.message}` : String(failure.error);
      return { body: errorBody(failure.node, message), error: failure.error };
    }
  }
  return unreachable(failure);
}

function errorBody(node: number, message: string): FailureBody {
  return { kind: "failure", failure: { kind: "error", node, message: message.slice(0, 2000) } };
}

function announcedError(failure: Failure, folder: RunFolder, view: RingView): Error {
  switch (failure.kind) {
    case "lost": {
      const peer = peersOf(view).find(({ node }) => node === failure.node)?.peerId ?? "unknown";
      return new NodeLostError(
        `node ${failure.node} (${peer}) is gone at step ${failure.step}, and its segment with it`,
        goOn(folder),
      );
    }
    case "segmentsLost": {
      const layers = failure.layers.join(", ");
      return new NodeLostError(
        `layers ${layers} are lost: every node that held them or a copy of them is gone, at step ${failure.step}`,
        goOn(folder),
      );
    }
    case "notFinite":
      return new NotFiniteError(
        `the numbers are not finite at step ${failure.step}, layer ${failure.layer} (node ${failure.node})`,
        "lower --lr, or check the data; what was committed is kept",
      );
    case "error":
      return new NetworkError(`node ${failure.node} failed: ${failure.message}`, "see that node's log");
  }
  return unreachable(failure);
}

/** The command that goes on from what is on the disk. */
function goOn(folder: RunFolder): string {
  const step = checkpointSteps(folder).at(-1);
  if (step === undefined) return "no checkpoint was written: run again, with --checkpoint-every to be able to go on";
  return `go on from step ${step}: ringtmp up --resume ${folder.path}`;
}
