/**
 * @file One process of the benchmark of keys: a server with a set of keys for each size of message, or a worker that pushes and pulls them. The
 * benchmark tells it what to do, one message after the other; it tells times and CPU time.
 */
import { rulesOf } from "../../baseline-ps/core/consistency.ts";
import { divideKeys } from "../../baseline-ps/core/key-map.ts";
import { KeyClient } from "../../baseline-ps/runtime/key-client.ts";
import { keysProtocol } from "../../baseline-ps/runtime/key-frames.ts";
import { KeyMemory } from "../../baseline-ps/runtime/key-memory.ts";
import { KeyServer } from "../../baseline-ps/runtime/key-server.ts";
import { ServerFunctions } from "../../baseline-ps/runtime/server-functions.ts";
import { createLibp2pTransport, type Libp2pTransportInit } from "../../src/net/libp2p.ts";
import { nowMs } from "../../src/runtime/clock.ts";
import { UNBOOKED } from "../helpers/unbooked.ts";

export interface Group {
  readonly encryption: NonNullable<Libp2pTransportInit["encryption"]>;
  readonly servers: number;
  readonly workers: number;
  /** Keys of each size of message: all of them travel. */
  readonly sizes: readonly number[];
}

export type Order =
  | { readonly kind: "serve"; readonly server: number; readonly group: Group }
  /** Addresses by size and server. */
  | {
      readonly kind: "connect";
      readonly worker: number;
      readonly group: Group;
      readonly addresses: readonly (readonly (readonly string[])[])[];
    }
  | { readonly kind: "work"; readonly size: number; readonly what: "push" | "pull"; readonly count: number }
  | { readonly kind: "cpu" };

/** In the order of the orders. */
export type Answer =
  | { readonly kind: "serving"; readonly addresses: readonly (readonly string[])[] }
  | { readonly kind: "connected" }
  | { readonly kind: "worked"; readonly timesMs: readonly number[] }
  | { readonly kind: "cpu"; readonly userMs: number; readonly systemMs: number };

async function serve(server: number, { encryption, servers, workers, sizes }: Group): Promise<Answer> {
  const addresses = sizes.map(async (keys, size) => {
    const transport = await createLibp2pTransport({ listen: ["/ip4/127.0.0.1/tcp/0"], encryption });
    const keyServer = new KeyServer({
      ...{ ...UNBOOKED, job: `size ${size}`, server, clients: workers, peerId: transport.peerId },
      map: divideKeys(Math.max(keys, servers), servers),
      shard: { firstStep: 0, shares: workers, rules: rulesOf("async"), tau: Infinity },
      ...{ memory: new KeyMemory("wasm"), functions: new ServerFunctions(), function: "sgd", rate: 0.01 },
      onFailure: (worker, error) => {
        if (process.connected) throw new Error(`worker ${worker}`, { cause: error });
      },
    });
    await transport.handle(keysProtocol(`size ${size}`), (stream) => void keyServer.accept(stream));
    return transport.addresses;
  });
  return { kind: "serving", addresses: await Promise.all(addresses) };
}

class Worker {
  readonly #worker: number;
  readonly #clients: readonly KeyClient[];
  readonly #values: readonly Float32Array[];
  readonly #steps: number[];

  private constructor(worker: number, clients: readonly KeyClient[], values: readonly Float32Array[]) {
    [this.#worker, this.#clients, this.#values] = [worker, clients, values];
    this.#steps = clients.map(() => 0);
  }

  static async connect({ worker, group, addresses }: Extract<Order, { kind: "connect" }>): Promise<Worker> {
    const { encryption, servers, sizes } = group;
    const transport = await createLibp2pTransport({ listen: [], encryption });
    const connecting = sizes.map((keys, size) =>
      KeyClient.connect({
        ...{ job: `size ${size}`, client: worker, map: divideKeys(Math.max(keys, servers), servers), transport, nowMs },
        servers: addresses[size]!,
      }),
    );
    const values = sizes.map((keys) => new Float32Array(Math.max(keys, servers)).fill(1e-3));
    return new Worker(worker, await Promise.all(connecting), values);
  }

  /** One after the other, each to its end. */
  async work({ size, what, count }: Extract<Order, { kind: "work" }>): Promise<Answer> {
    const [client, values] = [this.#clients[size]!, this.#values[size]!];
    const range = { start: 0, end: values.length };
    const timesMs: number[] = [];
    for (let index = 0; index < count; index += 1) {
      const startMs = nowMs();
      const timestamp =
        what === "push"
          ? client.push(range, values, { step: this.#steps[size]!++, share: this.#worker })
          : client.pull(range, values, { leastVersion: 0 });
      await client.wait(timestamp);
      timesMs.push(nowMs() - startMs);
    }
    return { kind: "worked", timesMs };
  }
}

let worker: Worker | undefined;

async function obey(order: Order): Promise<Answer> {
  switch (order.kind) {
    case "serve":
      return serve(order.server, order.group);
    case "connect":
      worker = await Worker.connect(order);
      return { kind: "connected" };
    case "work":
      return worker!.work(order);
    case "cpu": {
      const { user, system } = process.cpuUsage();
      return { kind: "cpu", userMs: user / 1_000, systemMs: system / 1_000 };
    }
  }
}

if (import.meta.main) {
  process.on("message", (order: Order) => void obey(order).then((answer) => process.send?.(answer)));
  process.on("disconnect", () => process.exit());
}
