/**
 * @file Control streams of a node: one link to each peer of the ring, on a connection of its own, so that signs of life never wait
 * behind tensors. Who needs one dials; two that dial at once have two. Of a stranger only the wish to join reaches a handler.
 */
import { DialRefusedError } from "../../src/net/net-errors.ts";
import { Link, type LinkEnd, type Receiver } from "../../src/net/link.ts";
import type { Hello } from "../../src/net/hello.ts";
import type { Transport } from "../../src/net/transport.ts";
import { ProtocolError } from "../../src/types/errors.ts";
import { FrameKind, type FrameHeader } from "../../src/wire/header.ts";
import type { Candidate } from "../core/formation.ts";
import { CONTROL_PROTOCOL, type ControlInbox, type Route } from "./control-inbox.ts";
import { controlSchema, memberAnswerSchema, memberHelloSchema, type ControlMessage } from "./control-messages.ts";
import { checkMessage, encodeMessage, parseMessage } from "./messages.ts";

/** Who does not answer in this time is silent. */
const DIAL_LIMIT_MS = 400;
/** Messages that wait for a stream; what is beyond is dropped, as a broken stream would have dropped it. */
const WAITING_MAX = 64;
/** Streams to one peer: two that dial at once, and what is left of an earlier process. */
const LINKS_MAX = 4;
/** Peers with streams that are in no view which this node knows. */
const STRANGERS_MAX = 32;
/** Questions about what has been, which change nothing, and the thanks for the answers. */
const STRANGERS_SAY: readonly string[] = [
  "askLosses",
  "askNews",
  "complete",
] satisfies readonly ControlMessage["say"][];
const REMEDY = "run the same build on every node";

export interface ControlInit {
  readonly job: string;
  readonly self: Candidate;
  readonly transport: Transport;
  readonly inbox: ControlInbox;
  /** Where set, who is not known must know it. */
  readonly invite: string | null;
  /** Where a peer listens, as the newest view or its own words say; undefined for a stranger. */
  readonly addressesOf: (peerId: string) => readonly string[] | undefined;
  /** `boot`: of the process that speaks; an earlier one of the same peer may still be in the view. */
  readonly receive: (peerId: string, boot: number, message: ControlMessage) => void;
  readonly dialled: (peerId: string, outcome: DialOutcome) => void;
  /** A stream of that process has ended, and none is left. `isOrderly`: with GOODBYE. */
  readonly closed: (peerId: string, boot: number, isOrderly: boolean) => void;
  /** What came was right, and this node did not get through with it: without that message it would be another node than the others think. */
  readonly failed: (error: unknown) => void;
}

interface Peer {
  /** With the boot of the process at the other end. */
  readonly links: Map<Link, number>;
  readonly waiting: ControlMessage[];
  dialling: Promise<DialOutcome> | undefined;
}

export type DialOutcome = "answered" | "refused" | "silent";

export class Control {
  readonly #init: ControlInit;
  readonly #peers = new Map<string, Peer>();
  #isClosed = false;

  constructor(init: ControlInit) {
    this.#init = init;
    init.inbox.members(
      (hello, peerId) => this.#admit(hello, peerId),
      (peerId, boot) => [...(this.#peers.get(peerId)?.links.values() ?? [])].includes(boot),
    );
  }

  /** In order, as long as the stream holds; a message that cannot be sent is lost. */
  send(peerId: string, message: ControlMessage): void {
    if (this.#isClosed) return;
    const peer = this.#peer(peerId);
    const link = [...peer.links.keys()].at(-1);
    if (link !== undefined) return transmit(link, message);
    if (peer.waiting.length < WAITING_MAX) peer.waiting.push(message);
    void this.dial(peerId);
  }

  /** As far as can be told the line to this peer is dead: what is said from now on goes over new connections. */
  renew(peerId: string): void {
    this.#peers.get(peerId)?.links.clear();
    this.#init.transport.disconnect(peerId);
  }

  /** Opens a stream where there is none. Never rejects. */
  dial(peerId: string): Promise<DialOutcome> {
    const peer = this.#peer(peerId);
    if (peer.links.size > 0) return Promise.resolve("answered");
    return (peer.dialling ??= this.#open(peerId, peer).then((outcome) => {
      peer.dialling = undefined;
      this.#forget(peerId, peer);
      this.#init.dialled(peerId, outcome);
      return outcome;
    }));
  }

  async #open(peerId: string, peer: Peer): Promise<DialOutcome> {
    const { transport, job, self, invite, addressesOf } = this.#init;
    const addresses = addressesOf(peerId);
    if (addresses === undefined || this.#isClosed) {
      peer.waiting.length = 0;
      return "silent";
    }
    try {
      const signal = AbortSignal.timeout(DIAL_LIMIT_MS);
      const stream = await transport.dial(addresses, CONTROL_PROTOCOL, { signal, ownConnection: true });
      const hello = { kind: "member", job, incarnation: self.incarnation, boot: self.boot, invite };
      // The first words may come with the answer, and wait until it is known whose they are.
      const answered = Promise.withResolvers<number>();
      const receiver = this.#receiver(peerId, answered.promise);
      const { link, answer } = await Link.open(stream, hello, receiver, DIAL_LIMIT_MS);
      const { boot } = checkMessage(memberAnswerSchema, answer);
      answered.resolve(boot);
      this.#add(peerId, boot, link);
      return "answered";
    } catch (error) {
      peer.waiting.length = 0;
      return error instanceof DialRefusedError ? "refused" : "silent";
    }
  }

  #admit(hello: Hello, peerId: string): Route {
    const { job, boot, invite } = checkMessage(memberHelloSchema, hello);
    if (job !== this.#init.job) return refused(`job ${job} is not this ring's job ${this.#init.job}`);
    if (!this.#isKnown(peerId) && this.#init.invite !== null && invite !== this.#init.invite) {
      return refused("this ring needs the invite token that its founder printed (--invite)");
    }
    return {
      decision: {
        kind: "accept",
        answer: { boot: this.#init.self.boot },
        receiver: this.#receiver(peerId, boot),
      },
      accepted: (link) => this.#add(peerId, boot, link),
    };
  }

  #isKnown(peerId: string): boolean {
    return this.#init.addressesOf(peerId) !== undefined;
  }

  #receiver(peerId: string, boot: number | Promise<number>): Receiver {
    return {
      destination: controlOnly,
      handle: ({ payload }) => {
        const message = parseMessage(controlSchema, payload);
        if (!this.#mayBeHeard(peerId, message)) return undefined;
        if (typeof boot === "number") return this.#init.receive(peerId, boot, message);
        return boot.then((known) => this.#init.receive(peerId, known, message));
      },
    };
  }

  /**
   * A stranger wants to join, or to know how the run has ended, or has nothing to say: one word of a view that was never decided would end the
   * ring. It is no offence, since a member of a view that this node has yet to hear of is a stranger too. Throws ProtocolError where somebody
   * speaks for another.
   */
  #mayBeHeard(peerId: string, message: ControlMessage): boolean {
    if (STRANGERS_SAY.includes(message.say)) return true;
    if (message.say !== "membership" || message.message.kind !== "join") return this.#isKnown(peerId);
    if (message.message.candidate.peerId === peerId) return true;
    throw new ProtocolError(`${peerId} wants a place for another node than itself`, REMEDY);
  }

  #add(peerId: string, boot: number, link: Link): void {
    const peer = this.#peer(peerId);
    const oldest = peer.links.keys().next().value;
    if (peer.links.size >= LINKS_MAX) oldest?.abort("newer streams took its place");
    peer.links.set(link, boot);
    void link.ended.then((end) => this.#ended(peerId, peer, link, end));
    const strangers = [...this.#peers.keys()].filter((each) => !this.#isKnown(each));
    if (strangers.length > STRANGERS_MAX && !this.#isKnown(peerId)) link.abort("too many others wait to join");
    for (const message of peer.waiting.splice(0)) transmit(link, message);
  }

  #ended(peerId: string, peer: Peer, link: Link, end: LinkEnd): void {
    const boot = peer.links.get(link);
    peer.links.delete(link);
    this.#forget(peerId, peer);
    if (end.kind === "failed" && !this.#isClosed) this.#init.failed(end.error);
    if (boot === undefined || this.#isClosed || [...peer.links.values()].includes(boot)) return;
    this.#init.closed(peerId, boot, end.kind === "goodbye");
  }

  #peer(peerId: string): Peer {
    const peer = this.#peers.get(peerId) ?? { links: new Map<Link, number>(), waiting: [], dialling: undefined };
    this.#peers.set(peerId, peer);
    return peer;
  }

  /** Who comes and goes leaves nothing behind. */
  #forget(peerId: string, peer: Peer): void {
    const isUnused = peer.links.size === 0 && peer.dialling === undefined && peer.waiting.length === 0;
    if (isUnused && this.#peers.get(peerId) === peer) this.#peers.delete(peerId);
  }

  /** Says what still waits for a stream, then GOODBYE on every stream, within `limitMs` and the limits of a dial. */
  async close(limitMs: number): Promise<void> {
    this.#isClosed = true;
    // 1. A stream breaks by a bug of this node. 2. It tells the peer on a new one that the run has failed, and ends. 3. Unheard, the peer would wait.
    const opening = [...this.#peers.values()].filter(({ waiting }) => waiting.length > 0);
    await Promise.all(opening.map(({ dialling }) => dialling ?? Promise.resolve()));
    const links = [...this.#peers.values()].flatMap((peer) => [...peer.links.keys()]);
    await Promise.all(links.map((link) => link.close(limitMs)));
  }
}

function refused(reason: string): Route {
  return { decision: { kind: "refuse", reason } };
}

function controlOnly(header: FrameHeader): Uint8Array {
  if (header.kind === FrameKind.control) return new Uint8Array(header.payloadBytes);
  throw new ProtocolError(`kind ${header.kind} has no meaning on a control stream`, REMEDY);
}

function transmit(link: Link, message: ControlMessage): void {
  // A link that is lost shows in `ended`.
  link.send({ kind: FrameKind.control }, encodeMessage(message)).catch(() => {});
}
