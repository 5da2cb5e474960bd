/**
 * @file A node's edges: two streams to each neighbour, one a direction. The node dials a `forward` stream to its successor and a
 * `backward` stream to its predecessor, and accepts the same two. On two nodes both neighbours are the same peer, so a
 * stream's role comes from its hello alone. Edges are of one view: the next one opens its own.
 */
import type { Transport } from "../../src/net/transport.ts";
import { within } from "../../src/net/wait.ts";
import { Link, type Decision, type LinkEnd, type Receiver } from "../../src/net/link.ts";
import type { Hello } from "../../src/net/hello.ts";
import { NetworkError, ProtocolError } from "../../src/types/errors.ts";
import { guard, type Origin } from "../core/guard.ts";
import { memberOf, type RingView } from "../core/view.ts";
import { checkMessage, edgeHelloSchema, type EdgeDirection } from "./messages.ts";

export const DATA_PROTOCOL = "/ringtmp/data/1";
/** With this reason a side ends its edges in order: nothing was wrong with what came. */
export const VIEW_OVER = "the view is over";

/** A neighbour may still be filling its memory with the initial weights. */
const EDGE_LIMIT_MS = 120_000;
const GOODBYE_LIMIT_MS = 10_000;

/** Bytes and messages over all links of this node. */
export interface EdgeCounters {
  readonly bytesSent: number;
  readonly bytesReceived: number;
  readonly messagesSent: number;
}

/** The direction of a stream that a neighbour dialled, or `outgoing` for one of ours. */
export type LinkRole = EdgeDirection | "outgoing";

export interface EdgesInit {
  readonly job: string;
  readonly view: RingView;
  /** One of the view's owners, and not the only one. */
  readonly node: number;
  readonly transport: Transport;
  /** Frames from the predecessor (`forward`) and from the successor (`backward`). */
  readonly receivers: Readonly<Record<EdgeDirection, Receiver>>;
  /** Told once for each link that ends. */
  readonly onEnd: (neighbour: number, end: LinkEnd, role: LinkRole) => void;
  /** The view is over: every link ends, those that are still to open as well. */
  readonly signal: AbortSignal;
}

/** The owners before and after a node; on two nodes the same. */
export function neighboursOf({ owners }: RingView, node: number): { predecessor: number; successor: number } {
  const place = owners.indexOf(node);
  const at = (offset: number): number => owners[(place + offset + owners.length) % owners.length]!;
  return { predecessor: at(-1), successor: at(1) };
}

export class Edges {
  /** Activations go out here. */
  readonly toSuccessor: Link;
  /** Gradients go out here. */
  readonly toPredecessor: Link;
  readonly #incoming: readonly Link[];

  private constructor(toSuccessor: Link, toPredecessor: Link, incoming: readonly Link[]) {
    this.toSuccessor = toSuccessor;
    this.toPredecessor = toPredecessor;
    this.#incoming = incoming;
  }

  /** Opens all four links. Throws NetworkError where a neighbour cannot be reached, or refuses, or the view ends meanwhile. */
  static async open(init: EdgesInit, inbox: EdgeInbox): Promise<Edges> {
    const { view, node, transport, signal } = init;
    const { predecessor, successor } = neighboursOf(view, node);
    const accepted = Promise.all([
      inbox.install(init, "forward", predecessor),
      inbox.install(init, "backward", successor),
    ]);
    // Handled below; without this an early failure of a dial would leave it unhandled.
    accepted.catch(() => {});
    const dial = async (neighbour: number, direction: EdgeDirection): Promise<Link> => {
      const stream = await transport.dial(memberOf(view, neighbour)!.addresses, DATA_PROTOCOL);
      const hello = { kind: "edge", job: init.job, view: view.view, direction };
      // Nothing comes back on a stream that this side dialled but grants.
      const receiver: Receiver = { destination: refuseAll, handle: () => {} };
      const forget = atEnd(signal, () => stream.abort(viewOver()));
      try {
        const { link } = await Link.open(stream, hello, receiver, EDGE_LIMIT_MS);
        return keep(link, neighbour, "outgoing", init);
      } finally {
        forget();
      }
    };
    const [toSuccessor, toPredecessor] = await Promise.all([dial(successor, "forward"), dial(predecessor, "backward")]);
    return new Edges(toSuccessor, toPredecessor, await accepted);
  }

  get counters(): EdgeCounters {
    const links = [this.toSuccessor, this.toPredecessor, ...this.#incoming];
    return {
      bytesSent: links.reduce((sum, link) => sum + link.sent.bytes, 0),
      bytesReceived: links.reduce((sum, link) => sum + link.received.bytes, 0),
      messagesSent: links.reduce((sum, link) => sum + link.sent.messages, 0),
    };
  }

  /** Says GOODBYE on every link, and waits for the neighbours'. */
  async close(): Promise<void> {
    const links = [this.toSuccessor, this.toPredecessor, ...this.#incoming];
    await Promise.all(links.map((link) => link.close(GOODBYE_LIMIT_MS)));
  }
}

function refuseAll(): never {
  throw new ProtocolError("a frame on the wrong side of a stream", "run the same build on every node");
}

/**
 * A link is the view's from its first moment on. 1. Of three owners one dies before the edges are open. 2. The other two open theirs to each other,
 * and fail at the third: there are no `Edges` to end. 3. What is open would hold its receiver, and with it the memory of the whole view.
 */
function keep(link: Link, neighbour: number, role: LinkRole, { onEnd, signal }: EdgesInit): Link {
  const forget = atEnd(signal, () => link.abort(VIEW_OVER));
  void link.ended.then((end) => {
    forget();
    onEnd(neighbour, end, role);
  });
  return link;
}

/** Calls `end` when the view ends, or now where it has ended. Returns what takes that back. */
function atEnd(signal: AbortSignal, end: () => void): () => void {
  if (signal.aborted) end();
  signal.addEventListener("abort", end);
  return () => signal.removeEventListener("abort", end);
}

const viewOver = (): NetworkError => new NetworkError(VIEW_OVER, "none is needed: the next one opens its own streams");

/** What this node waits for from one neighbour. */
interface Expected {
  readonly origin: Origin;
  readonly receiver: Receiver;
  readonly accepted: (link: Link) => void;
  isTaken: boolean;
}

/** Views ahead of the present one of which streams may wait here. */
const VIEWS_AHEAD_MAX = 8;

/**
 * Streams that neighbours dial. They may come before this node knows the view, or has its memory ready: they wait for
 * `install`. Those of older views are refused.
 */
export class EdgeInbox {
  /** By view and direction. */
  readonly #expected = new Map<string, PromiseWithResolvers<Expected>>();
  #view = 0;

  async listen(transport: Transport): Promise<void> {
    await transport.handle(DATA_PROTOCOL, (stream) => {
      let expected: Expected | undefined;
      const decide = async (hello: Hello): Promise<Decision> => {
        const edge = checkMessage(edgeHelloSchema, hello);
        if (edge.view < this.#view || edge.view > this.#view + VIEWS_AHEAD_MAX) {
          return { kind: "refuse", reason: `view ${edge.view} is not this ring's: it is at view ${this.#view}` };
        }
        const opening = this.#of(edge.view, edge.direction).promise;
        expected = await within(opening, EDGE_LIMIT_MS, () => undefined).catch(() => undefined);
        if (expected === undefined) return { kind: "refuse", reason: "this node does not know its ring yet" };
        const verdict = guard(expected.origin, { job: edge.job, view: edge.view, peerId: stream.remotePeer });
        if (verdict.kind === "refused") return { kind: "refuse", reason: verdict.reason };
        if (expected.isTaken) return { kind: "refuse", reason: `the ${edge.direction} edge is already open` };
        expected.isTaken = true;
        return { kind: "accept", answer: {}, receiver: expected.receiver };
      };
      // A stranger that says nothing sensible is cut off by the link; the ring goes on.
      Link.accept(stream, decide).then(
        (link) => link !== undefined && expected?.accepted(link),
        () => {},
      );
    });
  }

  #of(view: number, direction: EdgeDirection): PromiseWithResolvers<Expected> {
    const key = `${view} ${direction}`;
    const known = this.#expected.get(key) ?? Promise.withResolvers<Expected>();
    // Whoever waits sees it; where nobody does it must not count as unhandled.
    known.promise.catch(() => {});
    this.#expected.set(key, known);
    return known;
  }

  /** Streams of views before this one are not waited for any more. */
  advance(view: number): void {
    this.#view = view;
    for (const [key, { reject }] of this.#expected) {
      if (Number(key.split(" ")[0]) >= view) continue;
      reject(viewOver());
      this.#expected.delete(key);
    }
  }

  /** From now on the neighbour's stream is accepted. Resolves with its link. */
  async install(init: EdgesInit, direction: EdgeDirection, neighbour: number): Promise<Link> {
    const { job, view, signal } = init;
    const opened = Promise.withResolvers<Link>();
    const expected = this.#of(view.view, direction);
    const origin = { job, view: view.view, peerId: memberOf(view, neighbour)!.peerId };
    const receiver = init.receivers[direction];
    // Also one that comes when nobody waits for it any more.
    const accepted = (link: Link): void => opened.resolve(keep(link, neighbour, direction, init));
    expected.resolve({ origin, receiver, accepted, isTaken: false });
    const forget = atEnd(signal, () => opened.reject(viewOver()));
    const timer = setTimeout(() => {
      opened.reject(new NetworkError(`node ${neighbour} did not open its ${direction} edge in time`, "see its log"));
    }, EDGE_LIMIT_MS);
    timer.unref();
    try {
      return await opened.promise;
    } finally {
      clearTimeout(timer);
      forget();
    }
  }
}
