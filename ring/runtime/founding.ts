/**
 * @file Ring formation over the control plane. The founder drives the formation machine; others join through any member,
 * which sends them on to the founder; when all have accepted the same view it is decided, and these streams end.
 */
import type * as z from "zod";
import { BUILD } from "../../src/config/fingerprint.ts";
import { flagName } from "../../src/config/settings.ts";
import { Link, type Receiver } from "../../src/net/link.ts";
import type { Hello } from "../../src/net/hello.ts";
import type { Transport } from "../../src/net/transport.ts";
import { NetworkError, ProtocolError } from "../../src/types/errors.ts";
import { FrameKind, type FrameHeader } from "../../src/wire/header.ts";
import {
  FormationMachine,
  viewDigest,
  type Candidate,
  type FormationOutput,
  type FormedRing,
} from "../core/formation.ts";
import type { RingView } from "../core/view.ts";
import { CONTROL_PROTOCOL, type ControlInbox, type Route } from "./control-inbox.ts";
import {
  checkMessage,
  encodeMessage,
  formationSchema,
  joinAnswerSchema,
  joinHelloSchema,
  parseMessage,
  type FormationMessage,
  type Job,
  type Welcome,
} from "./messages.ts";

export interface FoundingInit {
  readonly job: Job;
  readonly founder: Candidate;
  readonly layerCosts: readonly number[];
  /** Engine kinds that the job accepts, the preferred first. */
  readonly engines: readonly string[];
  /** Where set, who joins must know it. */
  readonly invite: string | null;
  readonly inbox: ControlInbox;
  /** Told whenever a node came or left. */
  readonly onPresent: (present: number, size: number) => void;
}

/** Waits until the ring is whole; resolves with the decided view. Afterwards a newcomer is told that it is. */
export async function foundRing(init: FoundingInit): Promise<FormedRing> {
  return new Founding(init).run();
}

class Founding {
  readonly #init: FoundingInit;
  readonly #machine: FormationMachine;
  readonly #links = new Map<string, Link>();
  #toldPresent = 1;
  readonly #decided = Promise.withResolvers<FormedRing>();

  constructor(init: FoundingInit) {
    const { job, founder, layerCosts, engines } = init;
    this.#init = init;
    this.#machine = new FormationMachine({ size: job.settings.nodes, founder, layerCosts, engines });
  }

  run(): Promise<FormedRing> {
    this.#init.inbox.newcomers((hello, remotePeer) => this.#request(hello, remotePeer));
    this.#act(this.#machine.handle({ kind: "begin" }));
    return this.#decided.promise;
  }

  #request(hello: Hello, remotePeer: string): Route {
    const { job, invite } = this.#init;
    const join = checkMessage(joinHelloSchema, hello);
    const reason = refusalOf(join, job, invite);
    if (reason !== undefined) return refuse(reason);
    const outputs = this.#machine.handle({ kind: "request", candidate: { ...join.candidate, peerId: remotePeer } });
    const [first, ...rest] = outputs;
    if (first?.kind === "refuse") return refuse(first.reason);
    const answer = {
      kind: "welcome",
      job: job.job,
      present: this.#machine.present,
      size: job.settings.nodes,
      founder: this.#init.founder.addresses,
    };
    return {
      decision: { kind: "accept", answer, receiver: this.#receiver(remotePeer) },
      accepted: (link) => this.#welcome(link, rest),
      failed: () => this.#lose(remotePeer, rest),
    };
  }

  #receiver(peerId: string): Receiver {
    return {
      destination: tokenOnly,
      handle: ({ payload }) => {
        const message = parseMessage(formationSchema, payload);
        if (message.kind === "accepted")
          this.#act(this.#machine.handle({ kind: "accepted", peerId, digest: message.digest }));
      },
    };
  }

  #welcome(link: Link, outputs: readonly FormationOutput[]): void {
    this.#links.set(link.remotePeer, link);
    void link.ended.then(() => {
      this.#links.delete(link.remotePeer);
      this.#lose(link.remotePeer, []);
    });
    this.#tellPresent();
    this.#act(outputs);
  }

  /** A node that had a place is gone. `outputs`: of its request, where nobody has acted on them: others count the proposals. */
  #lose(peerId: string, outputs: readonly FormationOutput[]): void {
    this.#act(outputs);
    this.#act(this.#machine.handle({ kind: "gone", peerId }));
    this.#tellPresent();
  }

  /** Once for each change: after the decision links end one by one, and nobody has left. */
  #tellPresent(): void {
    const { present } = this.#machine;
    if (present === this.#toldPresent) return;
    this.#toldPresent = present;
    this.#init.onPresent(present, this.#init.job.settings.nodes);
  }

  #act(outputs: readonly FormationOutput[]): void {
    for (const output of outputs) {
      if (output.kind === "propose") this.#broadcast({ kind: "propose", job: this.#init.job, view: output.view });
      if (output.kind === "decided") void this.#decide(output.view);
      if (output.kind === "failed")
        this.#decided.reject(new NetworkError(output.reason, "run the same build on every node"));
    }
  }

  #broadcast(message: FormationMessage): void {
    for (const link of this.#links.values()) sendMessage(link, message);
  }

  async #decide(view: FormedRing): Promise<void> {
    this.#broadcast({ kind: "decided" });
    this.#decided.resolve(view);
    await Promise.all([...this.#links.values()].map((link) => link.close()));
  }
}

const refuse = (reason: string): Route => ({ decision: { kind: "refuse", reason } });

/** Why a node cannot take part in the job; undefined where it can. */
function refusalOf(join: z.infer<typeof joinHelloSchema>, job: Job, invite: string | null): string | undefined {
  if (join.build !== BUILD) return `field build: the ring runs ${BUILD}, not ${join.build}`;
  if (invite !== null && join.invite !== invite) {
    return "this ring needs the invite token that its founder printed (--invite)";
  }
  const settings: Readonly<Record<string, unknown>> = job.settings;
  const differing = Object.keys(join.expected).find((name) => join.expected[name] !== settings[name]);
  if (differing === undefined) return undefined;
  return `field ${differing}: the job has ${flagName(differing)} ${String(settings[differing])}, not ${join.expected[differing]}`;
}

/** What a node must know of a ring that trains to ask its members for a place. */
export interface RunningRing {
  readonly job: Job;
  readonly layerCosts: readonly number[];
  readonly engine: string;
  readonly view: RingView;
}

/** Newcomers are told what the ring is; its members decide whether, and when, one is admitted. */
export function welcomeLate(inbox: ControlInbox, invite: string | null, ring: () => RunningRing): void {
  inbox.newcomers((hello, remotePeer) => {
    const join = checkMessage(joinHelloSchema, hello);
    const running = ring();
    const { job, layerCosts, engine, view } = running;
    if (job.settings.replicas === 0) {
      return refuse(
        `the ring is whole (${view.members.length} of ${view.members.length} nodes), and keeps no replicas`,
      );
    }
    const reason = refusalOf(join, job, invite);
    if (reason !== undefined) return refuse(reason);
    if (!join.candidate.engines.includes(engine)) {
      return refuse(`field engine: the ring computes with ${engine}, not ${join.candidate.engines.join(", ")}`);
    }
    const present = view.members.find(({ peerId }) => peerId === remotePeer);
    // Who comes back has more starts than before. With a copy of another node's state folder two processes would take turns in putting each
    // other out, for ever; the streams of a process that has ended break before another one can ask.
    const isHere = present !== undefined && inbox.isConnected(remotePeer, present.boot);
    if (present !== undefined && (isHere || present.boot >= join.candidate.boot)) {
      return refuse(`this identity is node ${present.node}, which is here: each node needs a state folder of its own`);
    }
    return {
      decision: {
        kind: "accept",
        answer: { kind: "running", job: job.job },
        receiver: { destination: tokenOnly, handle: () => {} },
      },
      accepted: (link) => sendMessage(link, { kind: "running", job, layerCosts, engine, view }),
    };
  });
}

export interface JoiningInit {
  readonly address: string;
  readonly candidate: Candidate;
  readonly expected: Readonly<Record<string, string | number | boolean | null>>;
  readonly invite: string | null;
  readonly transport: Transport;
  /** Told when the founder has a place for this node. */
  readonly onWelcome: (welcome: Welcome) => void;
}

/** Asks the member at `address`, or whom it names, for a place; resolves when the view is decided, or with a ring that trains. */
export async function joinFounder(init: JoiningInit): Promise<Exclude<PlaceAnswer, { kind: "redirect" }>> {
  let addresses: readonly string[] = [init.address];
  const MEMBERS_ASKED_MAX = 3;
  for (let asked = 0; asked < MEMBERS_ASKED_MAX; asked += 1) {
    const answer = await askForPlace(init, addresses);
    if (answer.kind !== "redirect") return answer;
    addresses = answer.addresses;
  }
  throw new NetworkError(
    `${init.address} and the members that it names send us in a circle`,
    "join through the founder's address",
  );
}

type PlaceAnswer =
  | ({ readonly kind: "running" } & RunningRing)
  | { readonly kind: "decided"; readonly job: Job; readonly view: FormedRing }
  | { readonly kind: "redirect"; readonly addresses: readonly string[] };

async function askForPlace(init: JoiningInit, addresses: readonly string[]): Promise<PlaceAnswer> {
  const { candidate, expected, invite, transport } = init;
  const stream = await transport.dial(addresses, CONTROL_PROTOCOL);
  const decided = Promise.withResolvers<PlaceAnswer>();
  let proposed: { readonly job: Job; readonly view: FormedRing } | undefined;
  const receiver: Receiver = {
    destination: tokenOnly,
    handle: ({ payload }, link) => {
      const message = parseMessage(formationSchema, payload);
      if (message.kind === "propose") {
        proposed = { job: message.job, view: message.view };
        sendMessage(link, { kind: "accepted", digest: viewDigest(message.view) });
      }
      if (message.kind === "running") {
        decided.resolve(message);
        void link.close();
      }
      if (message.kind === "decided" && proposed !== undefined) decided.resolve({ kind: "decided", ...proposed });
    },
  };
  const hello = { kind: "join", build: BUILD, invite, expected, candidate };
  const { link, answer } = await Link.open(stream, hello, receiver);
  const welcome = checkMessage(joinAnswerSchema, answer);
  if (welcome.kind === "redirect") {
    await link.close();
    return welcome;
  }
  if (welcome.kind === "welcome") init.onWelcome(welcome);
  void link.ended.then((end) => {
    const cause = end.kind === "refused" ? end.reason : "it went away before the ring was whole";
    decided.reject(
      new NetworkError(`the founder ended the formation: ${cause}`, "see the founder's log, and join again"),
    );
  });
  return decided.promise;
}

/** Members that did not found the ring send newcomers on to the founder while it forms. */
export function redirectNewcomers(inbox: ControlInbox, founder: () => readonly string[] | undefined): void {
  inbox.newcomers(() => {
    const addresses = founder();
    if (addresses === undefined) return refuse("this node does not know its ring yet: join through another");
    const receiver: Receiver = { destination: tokenOnly, handle: () => {} };
    return { decision: { kind: "accept", answer: { kind: "redirect", addresses }, receiver } };
  });
}

function tokenOnly(header: FrameHeader): Uint8Array {
  if (header.kind === FrameKind.token) return new Uint8Array(header.payloadBytes);
  throw new ProtocolError(
    `kind ${header.kind} has no meaning on the control plane`,
    "run the same build on every node",
  );
}

function sendMessage(link: Link, message: FormationMessage): void {
  // A link that is lost shows in `ended`.
  link.send({ kind: FrameKind.token }, encodeMessage(message)).catch(() => {});
}
