/**
 * @file A server of keys on the network: frames of its clients in, the shards that it has, frames out. A message of a client speaks of keys of one or
 * more shards, and is answered when all of them have. Clients say who they are in their hello. A client that breaks the protocol is refused by
 * name and loses its link.
 */
import { Link, type Receiver } from "../../src/net/link.ts";
import type { Decision } from "../../src/net/link-types.ts";
import type { Timeline } from "../../src/metrics/timeline.ts";
import type { ByteStream } from "../../src/net/transport.ts";
import { nowMs } from "../../src/runtime/clock.ts";
import type { StageClockwork } from "../../src/runtime/stage-clockwork.ts";
import { defined } from "../../src/types/assert.ts";
import { NodeLostError, NotFiniteError, ProtocolError } from "../../src/types/errors.ts";
import { DataType, FrameKind, type FrameHeader } from "../../src/wire/header.ts";
import type { Place } from "../core/chain.ts";
import { type KeyMap, keysOf } from "../core/key-map.ts";
import { intersection, type KeyRange, type RangeSet } from "../core/ranges.ts";
import type { ShardInit, ShardInput } from "../core/shard-messages.ts";
import { trafficOf } from "./account.ts";
import { type ChainPeers, HostedShard, type PeerMessage, type Saying } from "./hosted-shard.ts";
import { memoryFor, placeOf, type Request, requestOf, singlesIn, valuesFor } from "./key-frames.ts";
import type { KeyMemory } from "./key-memory.ts";
import { Session } from "./key-session.ts";
import type { ServerFunctions } from "./server-functions.ts";
import { ShardStore } from "./store.ts";

export interface KeyServerInit {
  readonly job: string;
  readonly server: number;
  readonly map: KeyMap;
  readonly shard: Omit<ShardInit, "range" | "keepsBefore">;
  readonly memory: KeyMemory;
  readonly functions: ServerFunctions;
  /** Name of the server function. */
  readonly function: string;
  readonly rate: number;
  /** Sets the values of a shard that is here from the start, where they are not zero. */
  readonly fill?: (store: ShardStore, range: KeyRange) => void;
  /** Of the shards from the start on; without them each shard is here alone, for good. */
  readonly places?: ReadonlyMap<number, Place>;
  readonly peers?: ChainPeers;
  /** Whether parameters are kept as they were before their newest update; not, where it is absent. */
  readonly keepsBefore?: boolean;
  readonly clients: number;
  readonly timeline: Pick<Timeline, "add">;
  /** Its own: a client there is no traffic. */
  readonly peerId: string;
  /** Books what the server computes. */
  readonly clockwork: Pick<StageClockwork, "stepStarted" | "stepEnded" | "inserted">;
  /** A client's link is over without GOODBYE, or it pushed what cannot be applied. */
  readonly onFailure: (client: number, error: Error) => void;
}

const SAME_JOB = "run the same build and job on every node";
const ALONE: Place = { epoch: 0, previous: null, next: null, hasState: true, nextHasState: true };
const NO_PEERS: ChainPeers = {
  forward: () => {},
  tell: () => {},
  copy: () => {},
  release: () => {},
  installed: () => {},
};

export class KeyServer {
  readonly #init: KeyServerInit;
  readonly #memory: KeyMemory;
  readonly #shards = new Map<number, HostedShard>();
  /** By the number that the shards know a client's session by. */
  readonly #sessions: Session[] = [];
  /** The newest session of each client. */
  readonly #clients = new Map<number, Session>();
  #view: { readonly number: number; readonly map: KeyMap };
  /** Keys of which requests come here. */
  #keys: RangeSet;
  /** The newest of all chains, as far as it is known here, and what is of later ones. */
  #epoch = 0;
  #early: (readonly [shard: number, message: PeerMessage])[] = [];
  #hasStarted = false;

  constructor(init: KeyServerInit) {
    this.#init = init;
    this.#memory = init.memory;
    this.#view = { number: 0, map: init.map };
    this.#keys = keysOf(init.map, init.server);
    const own = [...init.map.heads.keys()].filter((shard) => init.map.heads[shard] === init.server);
    const places = init.places ?? new Map(own.map((shard) => [shard, ALONE]));
    for (const [shard, place] of places) {
      const hosted = this.#host(shard);
      init.fill?.(hosted.store, hosted.range);
      this.#handle(hosted, { kind: "place", place });
    }
  }

  /** The least of all keys of which requests come here. */
  get version(): number {
    const heads = [...this.#shards.values()].filter(({ isHead }) => isHead);
    return heads.length === 0 ? this.#init.shard.firstStep : Math.min(...heads.map(({ version }) => version));
  }

  /** Of which requests come here. */
  get keys(): RangeSet {
    return this.#keys;
  }

  get #links(): readonly Link[] {
    return this.#sessions.flatMap(({ link }) => link ?? []);
  }

  get counters(): { readonly bytesSent: number; readonly bytesReceived: number; readonly messagesSent: number } {
    return trafficOf(this.#links, this.#init.peerId);
  }

  /** The parameters and states of a shard that is here, which stay the store's. */
  store(shard: number): ShardStore {
    return defined(this.#shards.get(shard), `shard ${shard} is here`).store;
  }

  /** Takes a stream that a client has dialled. Throws what `Link.accept` throws. */
  async accept(stream: ByteStream): Promise<void> {
    let session: Session | undefined;
    const link = await Link.accept(stream, (hello) => this.#decide(hello, (accepted) => (session = accepted)));
    if (link === undefined || session === undefined) return;
    session.link = link;
    const { client } = session;
    void link.ended.then((end) => {
      if (end.kind === "goodbye") return;
      this.#init.onFailure(client, end.kind === "failed" ? (end.error as Error) : lost(client, end.kind));
    });
  }

  /**
   * From now on requests of this view are taken, and none of an earlier one.
   * @param places of the shards that this server holds; it gives up all others
   * @param epoch the newest of all chains
   */
  adopt(number: number, map: KeyMap, places: ReadonlyMap<number, Place>, epoch: number): void {
    for (const shard of this.#shards.keys()) if (!places.has(shard)) this.#giveUp(shard);
    for (const [shard, place] of places) this.#handle(this.#hosted(shard), { kind: "place", place });
    this.#view = { number, map };
    this.#keys = keysOf(map, this.#init.server);
    this.#epoch = epoch;
    const early = this.#early;
    this.#early = [];
    for (const [shard, message] of early) this.hear(shard, message);
    for (const session of this.#sessions) {
      const { due, over } = session.adopt(number);
      for (const frame of over) this.#release(placeOf(frame));
      for (const frame of due) this.#request(session, requestOf(frame, this.#keys));
    }
  }

  /** From another server of a shard's chain. */
  hear(shard: number, message: PeerMessage): void {
    const hosted = this.#shards.get(shard);
    // The view that it is of is on its way, maybe behind others in which the shard is not here.
    if (message.epoch > this.#epoch) this.#early.push([shard, message]);
    else if (hosted !== undefined) this.#handle(hosted, message);
    else if (message.kind === "update" && message.values.kind === "received") {
      this.#release(message.values.received);
    }
  }

  /** A client that is not to be heard any more. */
  forget(client: number): void {
    const session = this.#clients.get(client);
    if (session === undefined) return;
    this.#clients.delete(client);
    this.#end(session);
  }

  #end(session: Session): void {
    session.link?.abort("this worker is not of the run any more");
    const request = { kind: "gone", client: session.number } as const;
    for (const hosted of this.#shards.values()) this.#handle(hosted, { kind: "request", request });
  }

  #hosted(shard: number): HostedShard {
    return this.#shards.get(shard) ?? this.#host(shard);
  }

  #host(index: number): HostedShard {
    const { functions, function: name, rate, keepsBefore = false, peers = NO_PEERS, timeline, map, shard } = this.#init;
    const range = map.shards[index]!;
    const memory = this.#memory;
    const own = functions.make(name, memory.kernels, rate);
    const store = new ShardStore({ range, memory, function: own, keepsBefore });
    const hosted = new HostedShard({ index, shard: { ...shard, range, keepsBefore }, store, peers, timeline, nowMs });
    this.#shards.set(index, hosted);
    return hosted;
  }

  #giveUp(shard: number): void {
    this.#shards.get(shard)?.store.close();
    this.#shards.delete(shard);
  }

  #decide({ job, client: number }: Readonly<Record<string, unknown>>, accepted: (session: Session) => void): Decision {
    if (job !== this.#init.job) return { kind: "refuse", reason: "another job" };
    const isClient =
      typeof number === "number" && Number.isInteger(number) && number >= 0 && number < this.#init.clients;
    if (!isClient) return { kind: "refuse", reason: "no worker of this job" };
    if (this.#clients.has(number)) return { kind: "refuse", reason: `worker ${number} is here already` };
    const session = new Session(this.#sessions.length, number);
    this.#sessions.push(session);
    this.#clients.set(number, session);
    accepted(session);
    return { kind: "accept", answer: {}, receiver: this.#receiver(session) };
  }

  #receiver(session: Session): Receiver {
    const memory = this.#memory;
    return {
      destination: (header) => {
        // Which keys are whose in another view is looked at when it has come.
        const keys = header.view === this.#view.number ? this.#keys : undefined;
        return memoryFor(header, keys, (sizeBytes) => memory.place(sizeBytes));
      },
      handle: (frame, link) => {
        session.link = link;
        const { view } = frame.header;
        if (view === this.#view.number) this.#request(session, requestOf(frame, this.#keys));
        // One of an earlier view is sent once more; one of a later view waits for it.
        else if (view > this.#view.number) session.early.push(frame);
        else this.#release(placeOf(frame));
      },
    };
  }

  #release(place: ArrayBufferView | undefined): void {
    if (place !== undefined) this.#memory.giveBack(place);
  }

  #request(session: Session, request: Request): void {
    if (request.values !== undefined && !this.#memory.isFinite(request.values, request.place !== undefined)) {
      throw notFinite(session.client, request.step);
    }
    const parts = this.#partsOf(request);
    if (parts.some(({ hosted }) => request.array > hosted.store.stateNames.length)) {
      throw new ProtocolError(`worker ${session.client}: no state ${request.array}`, SAME_JOB);
    }
    session.begin(
      request,
      parts.map(({ hosted }) => hosted.range.start),
    );
    let holders = parts.length;
    const release = (): void => {
      holders -= 1;
      if (holders === 0) this.#release(request.place);
    };
    this.#timed(() => {
      for (const { hosted, keys } of parts) {
        const input = shardInput(session.number, request, keys);
        const values = valuesFor(request, keys);
        if (input.kind === "push" && values !== undefined) hosted.store.keep(input, values, release);
        this.#handle(hosted, { kind: "request", request: input });
      }
    });
  }

  /** The shards that it speaks of, and of each the keys, which are neighbours. */
  #partsOf({ keys, single, kind }: Request): readonly { readonly hosted: HostedShard; readonly keys: KeyRange }[] {
    return [...this.#shards.values()].flatMap((hosted) => {
      const [part] = hosted.isHead ? intersection(keys, [hosted.range]) : [];
      if (part === undefined) return [];
      if (single === undefined || kind === "push") return [{ hosted, keys: part }];
      const [from, to] = singlesIn(single, part);
      return from === to ? [] : [{ hosted, keys: { start: single[from]!, end: single[to - 1]! + 1 } }];
    });
  }

  #timed(act: () => void): void {
    const { clockwork } = this.#init;
    const before = this.version;
    if (!this.#hasStarted) clockwork.stepStarted(before);
    this.#hasStarted = true;
    const startMs = nowMs();
    act();
    clockwork.inserted({ startMs, endMs: nowMs(), runQueueMs: 0 });
    if (this.version === before) return;
    clockwork.stepEnded();
    clockwork.stepStarted(this.version);
  }

  #handle(hosted: HostedShard, input: Parameters<HostedShard["handle"]>[0]): void {
    hosted.handle(input, (saying) => this.#say(hosted, saying));
  }

  #say({ store, range }: HostedShard, saying: Saying): void {
    const session = this.#sessions[saying.client]!;
    switch (saying.kind) {
      case "applied": {
        const request = session.applied(saying.timestamp, range);
        if (request !== undefined) this.#send(session, { ...replyTo(request), kind: FrameKind.pushed });
        return;
      }
      case "answer": {
        const answer = session.answered(saying, range, store);
        if (answer === undefined) return;
        const { request, values, version: step } = answer;
        const shape = { dtype: DataType.float32, shape: [values.length] };
        const fields = { ...replyTo(request), kind: FrameKind.pulled, step, ...shape };
        return this.#send(session, fields, new Uint8Array(values.buffer));
      }
      case "announce": {
        const { subscription, keys, version: step } = saying;
        const [{ start, end }] = [keys[0]!];
        const values = new Float32Array(end - start);
        store.read({ start, end }, values);
        const fields = { job: BigInt(subscription), step, value: start };
        const shape = { dtype: DataType.float32, shape: [values.length] };
        return this.#send(session, { kind: FrameKind.announced, ...fields, ...shape }, new Uint8Array(values.buffer));
      }
      case "refused":
        throw new ProtocolError(`worker ${session.client}: ${saying.reason}`, SAME_JOB);
    }
  }

  #send({ link }: Session, fields: Partial<FrameHeader> & Pick<FrameHeader, "kind">, payload?: Uint8Array): void {
    // A rejection is the link's end, which is told apart.
    link?.send(fields, payload).catch(() => {});
  }

  /** Says GOODBYE to every client, and waits for theirs. */
  async close(limitMs: number): Promise<void> {
    await Promise.all(this.#links.map((link) => link.close(limitMs)));
  }
}

function shardInput(
  client: number,
  request: Request,
  range: KeyRange,
): Exclude<ShardInput, { kind: "decided" | "make" }> {
  const { kind, timestamp, oldest, step, share, single } = request;
  const keys = [range];
  switch (kind) {
    case "push":
      return { kind, client, timestamp, oldest, step, share, keys };
    case "subscribe":
      return { kind, client, subscription: timestamp, leastVersion: step, keys };
    case "pull": {
      const pull = { kind, client, timestamp, oldest, leastVersion: step, keys };
      return single === undefined ? pull : { ...pull, single: single.subarray(...singlesIn(single, range)) };
    }
  }
}

function replyTo({ timestamp, view }: Request): Pick<FrameHeader, "job" | "view"> {
  return { job: BigInt(timestamp), view };
}

function lost(client: number, how: string): Error {
  return new NodeLostError(`worker ${client} is gone (${how})`, "see its log; start the run again");
}

function notFinite(worker: number, step: number): NotFiniteError {
  return new NotFiniteError(
    `worker ${worker} pushed a gradient of step ${step} that is not finite`,
    "lower --lr, or look at the data of that step (ringtmp data batches)",
  );
}
