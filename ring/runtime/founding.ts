/**
 * @file Ring formation over the control plane. The founder drives the formation machine; others join through any member,
 * which sends them on to the founder; when all have accepted the same view it is decided, and these streams end.
 */
import { BUILD } from "../../src/config/fingerprint.ts";
import { flagName } from "../../src/config/settings.ts";
import { Link, type Decision, type Receiver } from "../../src/net/link.ts";
import type { Hello } from "../../src/net/hello.ts";
import type { Transport } from "../../src/net/transport.ts";
import { NetworkError, ProtocolError } from "../../src/types/errors.ts";
import { FrameKind, type FrameHeader } from "../../src/wire/header.ts";
import { FormationMachine, viewDigest, type Candidate, type FormationOutput, type View } from "../core/formation.ts";
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

export const CONTROL_PROTOCOL = "/ringtmp/control/1";

export interface FoundingInit {
  readonly job: Job;
  readonly founder: Candidate;
  readonly layerCosts: readonly number[];
  /** Engine kinds that the job accepts, the preferred first. */
  readonly engines: readonly string[];
  /** Where set, who joins must know it. */
  readonly invite: string | null;
  readonly transport: Transport;
  /** Told whenever a node came or left. */
  readonly onPresent: (present: number, size: number) => void;
}

/** Waits until the ring is whole; resolves with the decided view. Afterwards a newcomer is told that it is. */
export async function foundRing(init: FoundingInit): Promise<View> {
  return new Founding(init).run();
}

class Founding {
  readonly #init: FoundingInit;
  readonly #machine: FormationMachine;
  readonly #links = new Map<string, Link>();
  #toldPresent = 1;
  readonly #decided = Promise.withResolvers<View>();

  constructor(init: FoundingInit) {
    const { job, founder, layerCosts, engines } = init;
    this.#init = init;
    this.#machine = new FormationMachine({ size: job.settings.nodes, founder, layerCosts, engines });
  }

  async run(): Promise<View> {
    await this.#init.transport.handle(CONTROL_PROTOCOL, (stream) => {
      let outputs: readonly FormationOutput[] = [];
      let isAdmitted = false;
      const decide = (hello: Hello): Decision => {
        const reply = this.#request(hello, stream.remotePeer);
        outputs = reply.outputs;
        isAdmitted = reply.decision.kind === "accept";
        return reply.decision;
      };
      // A stranger that says nothing sensible is cut off by the link; formation goes on.
      Link.accept(stream, decide).then(
        (link) => link !== undefined && this.#welcome(link, outputs),
        () => isAdmitted && this.#lose(stream.remotePeer, outputs),
      );
    });
    this.#act(this.#machine.handle({ kind: "begin" }));
    return this.#decided.promise;
  }

  #request(
    hello: Hello,
    remotePeer: string,
  ): { readonly decision: Decision; readonly outputs: readonly FormationOutput[] } {
    const refuse = (reason: string) => ({ decision: { kind: "refuse", reason } as const, outputs: [] });
    const { job, invite } = this.#init;
    const join = checkMessage(joinHelloSchema, hello);
    if (join.build !== BUILD) return refuse(`field build: the ring runs ${BUILD}, not ${join.build}`);
    if (invite !== null && join.invite !== invite)
      return refuse("this ring needs the invite token that its founder printed (--invite)");
    const settings: Readonly<Record<string, string | number | null>> = job.settings;
    const differing = Object.keys(join.expected).find((name) => join.expected[name] !== settings[name]);
    if (differing !== undefined) {
      return refuse(
        `field ${differing}: the job has ${flagName(differing)} ${settings[differing]}, not ${join.expected[differing]}`,
      );
    }
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
    return { decision: { kind: "accept", answer, receiver: this.#receiver(remotePeer) }, outputs: rest };
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

  async #decide(view: View): Promise<void> {
    this.#broadcast({ kind: "decided" });
    this.#decided.resolve(view);
    await Promise.all([...this.#links.values()].map((link) => link.close()));
  }
}

export interface JoiningInit {
  readonly address: string;
  readonly candidate: Candidate;
  readonly expected: Readonly<Record<string, string | number | null>>;
  readonly invite: string | null;
  readonly transport: Transport;
  /** Told when the founder has a place for this node. */
  readonly onWelcome: (welcome: Welcome) => void;
}

/** Asks the member at `address`, or whom it names, for a place; resolves when the view is decided. */
export async function joinFounder(init: JoiningInit): Promise<{ readonly job: Job; readonly view: View }> {
  let addresses: readonly string[] = [init.address];
  const MEMBERS_ASKED_MAX = 3;
  for (let asked = 0; asked < MEMBERS_ASKED_MAX; asked += 1) {
    const answer = await askForPlace(init, addresses);
    if (answer.kind === "decided") return answer;
    addresses = answer.addresses;
  }
  throw new NetworkError(
    `${init.address} and the members that it names send us in a circle`,
    "join through the founder's address",
  );
}

type PlaceAnswer =
  | { readonly kind: "decided"; readonly job: Job; readonly view: View }
  | { readonly kind: "redirect"; readonly addresses: readonly string[] };

async function askForPlace(init: JoiningInit, addresses: readonly string[]): Promise<PlaceAnswer> {
  const { candidate, expected, invite, transport } = init;
  const stream = await transport.dial(addresses, CONTROL_PROTOCOL);
  const decided = Promise.withResolvers<PlaceAnswer>();
  let proposed: { readonly job: Job; readonly view: View } | undefined;
  const receiver: Receiver = {
    destination: tokenOnly,
    handle: ({ payload }, link) => {
      const message = parseMessage(formationSchema, payload);
      if (message.kind === "propose") {
        proposed = { job: message.job, view: message.view };
        sendMessage(link, { kind: "accepted", digest: viewDigest(message.view) });
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
  init.onWelcome(welcome);
  void link.ended.then((end) => {
    const cause = end.kind === "refused" ? end.reason : "it went away before the ring was whole";
    decided.reject(
      new NetworkError(`the founder ended the formation: ${cause}`, "see the founder's log, and join again"),
    );
  });
  return decided.promise;
}

/** Members that did not found the ring send newcomers on to the founder. */
export async function redirectNewcomers(
  transport: Transport,
  founder: () => readonly string[] | undefined,
): Promise<void> {
  await transport.handle(CONTROL_PROTOCOL, (stream) => {
    const decide = (): Decision => {
      const addresses = founder();
      if (addresses === undefined)
        return { kind: "refuse", reason: "this node does not know its ring yet: join through another" };
      return {
        kind: "accept",
        answer: { kind: "redirect", addresses },
        receiver: { destination: tokenOnly, handle: () => {} },
      };
    };
    Link.accept(stream, decide).catch(() => {});
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
