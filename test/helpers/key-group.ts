/** @file Servers of keys and their clients in this process, over any transport. */
import { rulesOf, type Consistency } from "../../baseline-ps/core/consistency.ts";
import { divideKeys } from "../../baseline-ps/core/key-map.ts";
import { KeyClient } from "../../baseline-ps/runtime/key-client.ts";
import { keysProtocol } from "../../baseline-ps/runtime/key-frames.ts";
import { KeyMemory } from "../../baseline-ps/runtime/key-memory.ts";
import { KeyServer } from "../../baseline-ps/runtime/key-server.ts";
import { ServerFunctions } from "../../baseline-ps/runtime/server-functions.ts";
import type { ShardStore } from "../../baseline-ps/runtime/store.ts";
import type { Transport } from "../../src/net/transport.ts";
import { nowMs } from "../../src/runtime/clock.ts";
import { UNBOOKED } from "./unbooked.ts";

export interface KeyGroupInit {
  readonly create: () => Promise<Transport>;
  readonly keys: number;
  readonly servers: number;
  readonly clients: number;
  readonly consistency: Consistency;
  readonly function?: string;
  readonly functions?: ServerFunctions;
  readonly rate?: number;
}

interface Failure {
  readonly client: number;
  readonly error: Error;
}

export class KeyGroup implements AsyncDisposable {
  readonly clients: readonly KeyClient[];
  readonly stores: readonly ShardStore[];
  readonly transports: readonly Transport[];
  readonly failures: readonly Failure[];

  private constructor(
    clients: readonly KeyClient[],
    stores: readonly ShardStore[],
    transports: readonly Transport[],
    failures: readonly Failure[],
  ) {
    this.clients = clients;
    this.stores = stores;
    this.transports = transports;
    this.failures = failures;
  }

  static async start(init: KeyGroupInit): Promise<KeyGroup> {
    const { create, keys, servers, clients, consistency, rate = 1 } = init;
    const map = divideKeys(keys, servers);
    const transports = await Promise.all(Array.from({ length: servers + clients }, create));
    const failures: Failure[] = [];
    const functions = init.functions ?? new ServerFunctions();
    const stores: ShardStore[] = [];
    for (const server of map.shards.keys()) {
      const shard = { firstStep: 0, shares: clients, rules: rulesOf(consistency.kind), tau: consistency.tau };
      const onFailure = (client: number, error: Error): void => void failures.push({ client, error });
      const keyServer = new KeyServer({
        ...{ job: "job", server, map, shard, clients, onFailure },
        ...{ memory: new KeyMemory("wasm-exact"), functions, function: init.function ?? "sgd", rate },
        peerId: transports[server]!.peerId,
        ...UNBOOKED,
      });
      stores.push(keyServer.store(server));
      await transports[server]!.handle(keysProtocol("job"), (stream) => void keyServer.accept(stream));
    }
    const addresses = transports.slice(0, servers).map((transport) => transport.addresses);
    const connect = (transport: Transport, client: number): Promise<KeyClient> =>
      KeyClient.connect({ job: "job", client, map, servers: addresses, transport, nowMs });
    const connected = await Promise.all(transports.slice(servers).map(connect));
    return new KeyGroup(connected, stores, transports, failures);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.clients.map((client) => client.close()));
    await Promise.all(this.transports.map((transport) => transport.close()));
  }
}
