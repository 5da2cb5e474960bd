/**
 * @file A server of keys on the network: frames of its clients in, the shard's machine, values, frames out. Clients say who they are in their
 * hello, each once. A client that breaks the protocol is refused by name and loses its link.
 */
import { Link, type Receiver } from "../../src/net/link.ts";
import type { Decision } from "../../src/net/link-types.ts";
import type { Timeline } from "../../src/metrics/timeline.ts";
import type { ByteStream } from "../../src/net/transport.ts";
import { nowMs } from "../../src/runtime/clock.ts";
import type { StageClockwork } from "../../src/runtime/stage-clockwork.ts";
import { NodeLostError, NotFiniteError, ProtocolError } from "../../src/types/errors.ts";
import { DataType, FrameKind, type FrameHeader } from "../../src/wire/header.ts";
import type { KeyRange } from "../core/ranges.ts";
import { Shard, type ShardInit, type ShardOutput } from "../core/shard.ts";
import { trafficOf } from "./account.ts";
import { inputOf, memoryFor, type Received } from "./key-frames.ts";
import type { ShardStore, ValueOutput } from "./store.ts";

export interface KeyServerInit {
  readonly job: string;
  readonly shard: ShardInit;
  readonly store: ShardStore;
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

interface Client {
  readonly client: number;
  link: Link | undefined;
  /** Of pulls that are not answered, by timestamp: single keys, or which array of a range. */
  readonly pulled: Map<number, Uint32Array | number>;
}

export class KeyServer {
  readonly #init: KeyServerInit;
  readonly #machine: Shard;
  readonly #clients = new Map<number, Client>();
  #hasStarted = false;

  constructor(init: KeyServerInit) {
    this.#init = init;
    this.#machine = new Shard(init.shard);
  }

  get version(): number {
    return this.#machine.version;
  }

  get #links(): readonly Link[] {
    return [...this.#clients.values()].flatMap(({ link }) => link ?? []);
  }

  get counters(): { readonly bytesSent: number; readonly bytesReceived: number; readonly messagesSent: number } {
    return trafficOf(this.#links, this.#init.peerId);
  }

  /** Takes a stream that a client has dialled. Throws what `Link.accept` throws. */
  async accept(stream: ByteStream): Promise<void> {
    let client: Client | undefined;
    const link = await Link.accept(stream, (hello) => this.#decide(hello, (accepted) => (client = accepted)));
    if (link === undefined || client === undefined) return;
    client.link = link;
    const { client: number } = client;
    void link.ended.then((end) => {
      if (end.kind === "goodbye") return;
      const error = end.kind === "failed" ? (end.error as Error) : lost(number, end.kind);
      this.#init.onFailure(number, error);
    });
  }

  #decide({ job, client: number }: Readonly<Record<string, unknown>>, accepted: (client: Client) => void): Decision {
    if (job !== this.#init.job) return { kind: "refuse", reason: "another job" };
    const isClient =
      typeof number === "number" && Number.isInteger(number) && number >= 0 && number < this.#init.clients;
    if (!isClient) return { kind: "refuse", reason: "no worker of this job" };
    if (this.#clients.has(number)) return { kind: "refuse", reason: `worker ${number} is here already` };
    const client: Client = { client: number, link: undefined, pulled: new Map() };
    this.#clients.set(number, client);
    accepted(client);
    return { kind: "accept", answer: {}, receiver: this.#receiver(client) };
  }

  #receiver(client: Client): Receiver {
    const { store, shard } = this.#init;
    const { range } = shard;
    return {
      destination: (header) => memoryFor(header, range, (sizeBytes) => store.place(sizeBytes)),
      handle: (frame, link) => {
        client.link = link;
        this.#hear(client, inputOf(client.client, frame, range));
      },
    };
  }

  #hear(client: Client, { input, values, keys, part = 0 }: Received): void {
    const { store, clockwork } = this.#init;
    if (input.kind === "push" && values !== undefined) {
      if (!store.isFinite(values)) throw notFinite(client.client, input.step);
      store.keep(input, values);
    }
    if (part > store.stateNames.length) throw new ProtocolError(`worker ${client.client}: no state ${part}`, SAME_JOB);
    if (input.kind === "pull") client.pulled.set(input.timestamp, keys ?? part);
    const before = this.#machine.version;
    if (!this.#hasStarted) clockwork.stepStarted(before);
    this.#hasStarted = true;
    const startMs = nowMs();
    const outputs = this.#machine.handle(input);
    for (const output of outputs) if (isOfValues(output)) store.do(output);
    const endMs = nowMs();
    clockwork.inserted({ startMs, endMs, runQueueMs: 0 });
    this.#note(outputs, startMs, endMs);
    for (const output of outputs) if (!isOfValues(output)) this.#say(output);
    if (this.#machine.version === before) return;
    clockwork.stepEnded();
    clockwork.stepStarted(this.#machine.version);
  }

  /** An operation of what a message brought to be applied. */
  #note(outputs: readonly ShardOutput[], startMs: number, endMs: number): void {
    const update = outputs.find(({ kind }) => kind === "updateStep" || kind === "updatePush");
    if (update === undefined || !("step" in update)) return;
    const { step } = update;
    this.#init.timeline.add({ kind: "update", step, lap: 0, microBatch: 0, startMs, endMs, bytes: 0 });
  }

  #say(output: Exclude<ShardOutput, ValueOutput>): void {
    switch (output.kind) {
      case "applied":
        return this.#send(output.client, { kind: FrameKind.pushed, view: output.timestamp });
      case "answer":
        return this.#answer(output);
      case "announce": {
        const { client, subscription, keys, version } = output;
        const values = this.#init.store.read(keys[0]!);
        return this.#sendValues(client, FrameKind.announced, subscription, version, keys[0]!, values);
      }
      case "refused":
        throw new ProtocolError(
          `worker ${output.client}: ${output.reason}`,
          "run the same build and job on every node",
        );
    }
  }

  #answer({ client, timestamp, keys: [range], version }: Extract<ShardOutput, { kind: "answer" }>): void {
    const { pulled } = this.#clients.get(client)!;
    const what = pulled.get(timestamp)!;
    pulled.delete(timestamp);
    const { store } = this.#init;
    const values = typeof what === "number" ? store.read(range!, what) : store.readKeys(what);
    this.#sendValues(client, FrameKind.pulled, timestamp, version, range!, values);
  }

  #sendValues(
    client: number,
    kind: FrameKind,
    view: number,
    step: number,
    { start }: KeyRange,
    values: Float32Array<ArrayBuffer>,
  ): void {
    const fields = { kind, view, step, value: start, dtype: DataType.float32, shape: [values.length] };
    this.#send(client, fields, new Uint8Array(values.buffer));
  }

  #send(client: number, fields: Partial<FrameHeader> & Pick<FrameHeader, "kind">, payload?: Uint8Array): void {
    // A rejection is the link's end, which is told apart.
    this.#clients
      .get(client)
      ?.link?.send(fields, payload)
      .catch(() => {});
  }

  /** Says GOODBYE to every client, and waits for theirs. */
  async close(limitMs: number): Promise<void> {
    await Promise.all(this.#links.map((link) => link.close(limitMs)));
  }
}

const VALUE_KINDS: ReadonlySet<string> = new Set<ValueOutput["kind"]>([
  "add",
  "forget",
  "updateStep",
  "updatePush",
  "stepOver",
]);

const isOfValues = (output: ShardOutput): output is ValueOutput => VALUE_KINDS.has(output.kind);

function lost(client: number, how: string): Error {
  return new NodeLostError(`worker ${client} is gone (${how})`, "see its log; start the run again");
}

function notFinite(worker: number, step: number): NotFiniteError {
  return new NotFiniteError(
    `worker ${worker} pushed a gradient of step ${step} that is not finite`,
    "lower --lr, or look at the data of that step (ringtmp data batches)",
  );
}
