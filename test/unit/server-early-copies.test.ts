/** @file What servers of a chain say before the view has come that it is of. */
import { expect, test } from "vitest";
import type { Place } from "../../baseline-ps/core/chain.ts";
import { rulesOf } from "../../baseline-ps/core/consistency.ts";
import { divideKeys } from "../../baseline-ps/core/key-map.ts";
import { Shard } from "../../baseline-ps/core/shard.ts";
import type { ChainPeers } from "../../baseline-ps/runtime/hosted-shard.ts";
import { KeyMemory } from "../../baseline-ps/runtime/key-memory.ts";
import { KeyServer } from "../../baseline-ps/runtime/key-server.ts";
import { ServerFunctions } from "../../baseline-ps/runtime/server-functions.ts";
import { UNBOOKED } from "../helpers/unbooked.ts";

test("a copy that comes two views early is kept through the one in which the shard is not here", () => {
  const map = divideKeys(6, 2);
  const shard = { firstStep: 0, shares: 1, rules: rulesOf("bsp"), tau: 0 };
  const installed: number[][] = [];
  const told: number[][] = [];
  const peers: ChainPeers = {
    forward: () => {},
    tell: (to, ofShard, epoch, index) => void told.push([to, ofShard, epoch, index]),
    copy: () => {},
    release: () => {},
    installed: (ofShard, epoch) => void installed.push([ofShard, epoch]),
  };
  const own: Place = { epoch: 0, previous: null, next: null, hasState: true, nextHasState: true };
  const server = new KeyServer({
    ...{ ...UNBOOKED, job: "job", server: 0, map, shard, clients: 1, peerId: "own", peers, keepsBefore: true },
    ...{ memory: new KeyMemory("wasm-exact"), functions: new ServerFunctions(), function: "sgd", rate: 1 },
    places: new Map([[0, own]]),
    onFailure: () => {},
  });
  const { state } = new Shard({ ...shard, range: { start: 3, end: 6 }, keepsBefore: true });
  const values = [Float32Array.of(7, 8, 9), new Float32Array(3)];
  server.hear(1, { kind: "copy", from: 1, epoch: 5, updates: 0, copy: { state, values } });
  server.adopt(1, map, new Map([[0, own]]), 4);
  expect(installed).toEqual([]);
  const place: Place = { epoch: 5, previous: 1, next: null, hasState: false, nextHasState: true };
  server.adopt(
    2,
    map,
    new Map([
      [0, own],
      [1, place],
    ]),
    5,
  );
  expect(installed).toEqual([[1, 5]]);
  const into = new Float32Array(3);
  server.store(1).read({ start: 3, end: 6 }, into);
  expect([...into]).toEqual([7, 8, 9]);
  const received = Float32Array.of(1, 1, 1);
  const update = { step: 0, share: null, keys: { start: 3, end: 6 } };
  server.hear(1, { kind: "update", from: 1, epoch: 5, index: 0, update, values: { kind: "received", received } });
  expect(told).toEqual([[1, 1, 5, 0]]);
  // Of a chain that this server was in: nobody waits for it.
  server.adopt(3, map, new Map([[0, own]]), 6);
  server.hear(1, { kind: "update", from: 1, epoch: 5, index: 1, update, values: { kind: "received", received } });
  expect(told).toHaveLength(1);
});
