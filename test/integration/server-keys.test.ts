/** @file Push, pull, wait over real links: against arrays, and against the optimizer in one memory. */
import { divideKeys } from "../../baseline-ps/core/key-map.ts";
import { randomInt } from "node:crypto";
import { describe, expect, test } from "vitest";
import type { Consistency } from "../../baseline-ps/core/consistency.ts";
import { ServerFunctions, proximalLasso } from "../../baseline-ps/runtime/server-functions.ts";
import { loadKernels } from "../../src/engine/load.ts";
import { EngineMemory } from "../../src/engine/memory.ts";
import { createLibp2pTransport } from "../../src/net/libp2p.ts";
import { MemoryNetwork } from "../../src/net/memory.ts";
import type { Transport } from "../../src/net/transport.ts";
import { parseOptimizer } from "../../src/optim/optimizers.ts";
import { RandomStream } from "../../src/types/random.ts";
import { KeyGroup } from "../helpers/key-group.ts";
import { soon } from "../helpers/memory-ring.ts";

const KEYS = 23;
const ASYNC: Consistency = { kind: "async", tau: Infinity };
const BSP: Consistency = { kind: "bsp", tau: 0 };
const network = new MemoryNetwork();
let members = 0;
const memory = async (): Promise<Transport> => network.join(`peer${members++}`);
const libp2p = (): Promise<Transport> => createLibp2pTransport({ listen: ["/ip4/127.0.0.1/tcp/0"] });

const draw = (random: RandomStream, length: number): Float32Array =>
  Float32Array.from({ length }, () => random.nextFloat() - 0.5);

function drawRange(random: RandomStream): { readonly start: number; readonly end: number } {
  const [a, b] = [random.nextBelow(KEYS + 1), random.nextBelow(KEYS)];
  return a === b ? { start: b, end: b + 1 } : { start: Math.min(a, b), end: Math.max(a, b) };
}

describe.each([
  ["memory", memory],
  ["libp2p", libp2p],
])("over %s", (_, create) => {
  test.each([1, 2, 4, KEYS])(
    "any range of keys, dense and sparse, on %i servers is as in one array",
    async (servers) => {
      const seed = randomInt(1_000_000_000);
      const random = new RandomStream(seed, 1_004);
      await using group = await KeyGroup.start({ create, keys: KEYS, servers, clients: 1, consistency: ASYNC });
      const client = group.clients[0]!;
      const oracle = new Float32Array(KEYS);
      for (let step = 0; step < 40; step += 1) {
        const range = drawRange(random);
        const isSparse = random.nextBelow(2) === 0;
        const keys = Uint32Array.from({ length: range.end - range.start }, (__, index) => range.start + index);
        const chosen = isSparse ? keys.filter(() => random.nextBelow(2) === 0) : keys;
        const values = draw(random, chosen.length);
        const of = { step, share: 0 };
        const pushed = isSparse ? client.pushSparse(chosen, values, of) : client.push(range, values, of);
        for (const [place, key] of chosen.entries()) oracle[key]! -= values[place]!;
        const into = new Float32Array(range.end - range.start);
        const pulled = client.pull(range, into, { leastVersion: 0, after: [pushed] });
        await soon(client.wait(pulled), "the pull");
        expect([...into], `seed ${seed}`).toEqual([...oracle.subarray(range.start, range.end)]);
        if (chosen.length === 0) continue;
        const single = new Float32Array(chosen.length);
        await soon(client.wait(client.pullSparse(chosen, single, { leastVersion: 0 })), "the sparse pull");
        expect([...single], `seed ${seed}`).toEqual([...chosen].map((key) => oracle[key]));
      }
      // One message for each server that has keys of the range, and never more.
      const { messagesSent } = client.counters;
      expect(messagesSent).toBeLessThanOrEqual(3 * 40 * servers);
    },
  );

  test.each([
    [1, "adam"],
    [3, "adam"],
    [2, "momentum"],
    [3, "adagrad"],
  ])("bsp on %i servers with %s has the bits of one memory", async (servers, name) => {
    const workers = 3;
    const rate = 0.01;
    const random = new RandomStream(7, 1_005);
    const init = { create, keys: KEYS, servers, clients: workers, consistency: BSP, function: name, rate };
    await using group = await KeyGroup.start(init);
    const one = new EngineMemory(0);
    const optimizer = parseOptimizer(name);
    const [weights, gradient, ...states] = Array.from({ length: 2 + optimizer.stateNames.length }, () =>
      one.allocate([KEYS]),
    );
    const kernels = loadKernels("wasm-exact", one.memory);
    let state = optimizer.init();
    for (let step = 0; step < 6; step += 1) {
      const shares = Array.from({ length: workers }, () => draw(random, KEYS));
      const pulls = group.clients.map(async (client, share) => {
        // Two layers, the upper one first, as a backward pass gives them.
        for (const range of [
          { start: 9, end: KEYS },
          { start: 0, end: 9 },
        ]) {
          client.push(range, shares[share]!.subarray(range.start, range.end), { step, share });
        }
        const into = new Float32Array(KEYS);
        const pull = client.pull({ start: 0, end: KEYS }, into, { leastVersion: step + 1 });
        expect(await soon(client.wait(pull), "the step")).toBe(step + 1);
        return into;
      });
      const sum = one.f32(gradient!);
      for (const share of shares) for (let key = 0; key < KEYS; key += 1) sum[key]! += share[key]!;
      state = optimizer.next(state);
      const tensors = { weights: weights!.offsetBytes, gradient: gradient!.offsetBytes, count: KEYS };
      optimizer.update(kernels, { ...tensors, states: states.map((view) => view.offsetBytes) }, state, rate);
      for (const pulled of await Promise.all(pulls)) expect([...pulled]).toEqual([...one.f32(weights!)]);
    }
    expect(group.failures).toEqual([]);
  });

  test("versions are announced to who subscribed, unasked", async () => {
    await using group = await KeyGroup.start({ create, keys: KEYS, servers: 2, clients: 1, consistency: BSP });
    const client = group.clients[0]!;
    const into = new Float32Array(KEYS);
    const versions: number[] = [];
    let heard = Promise.withResolvers<void>();
    client.subscribe({ start: 0, end: KEYS }, into, 1, (server, version) => {
      versions.push(10 * version + server);
      if (versions.length % 2 === 0) heard.resolve();
    });
    for (let step = 0; step < 3; step += 1) {
      client.push({ start: 0, end: KEYS }, new Float32Array(KEYS).fill(-1), { step, share: 0 });
      await soon(heard.promise, "the announcement");
      heard = Promise.withResolvers();
      expect([...new Set(into)]).toEqual([step + 1]);
    }
    expect(versions.toSorted((a, b) => a - b)).toEqual([10, 11, 20, 21, 30, 31]);
  });

  test.each([
    [11, Number.NaN],
    [20, Infinity],
    [KEYS - 1, -Infinity],
  ])("a gradient that is not finite is refused, and its worker named: key %i, %d", async (key, value) => {
    await using group = await KeyGroup.start({ create, keys: KEYS, servers: 2, clients: 2, consistency: BSP });
    const values = new Float32Array(KEYS).fill(0);
    values[key] = value;
    const pushed = group.clients[1]!.push({ start: 0, end: KEYS }, values, { step: 0, share: 1 });
    await expect(soon(group.clients[1]!.wait(pushed), "the end")).rejects.toThrow("server 1 is gone");
    expect(group.failures.map(({ client, error }) => [client, error.message])).toEqual([
      [1, "worker 1 pushed a gradient of step 0 that is not finite"],
    ]);
    const kept = new Float32Array(KEYS - 11).fill(9);
    group.stores[1]!.read({ start: 11, end: KEYS }, kept);
    expect([...new Set(kept)]).toEqual([0]);
  });

  test("a server that is gone ends every wait, by its name", async () => {
    await using group = await KeyGroup.start({ create, keys: KEYS, servers: 2, clients: 2, consistency: BSP });
    const client = group.clients[0]!;
    const pull = client.pull({ start: 0, end: KEYS }, new Float32Array(KEYS), { leastVersion: 1 });
    await group.transports[1]!.close();
    await expect(soon(client.wait(pull), "the end")).rejects.toThrow("server 1 is gone");
  });
});

test("who is no worker of the job is refused", async () => {
  await using group = await KeyGroup.start({ create: memory, keys: KEYS, servers: 1, clients: 1, consistency: BSP });
  const { KeyClient } = await import("../../baseline-ps/runtime/key-client.ts");
  const init = { map: divideKeys(KEYS, 1), servers: [group.transports[0]!.addresses] };
  const rest = { ...init, transport: group.transports[1]!, nowMs: () => 0 };
  const connect = (job: string, client: number) => KeyClient.connect({ ...rest, job, client });
  await expect(connect("other", 0)).rejects.toThrow("does not speak /ringtmp/data/ps/1/other");
  await expect(connect("job", 1)).rejects.toThrow("no worker of this job");
  await expect(connect("job", 0)).rejects.toThrow("worker 0 is here already");
});

describe("requests that cannot be", () => {
  test("are refused before anything is sent", async () => {
    await using group = await KeyGroup.start({ create: memory, keys: KEYS, servers: 2, clients: 1, consistency: BSP });
    const client = group.clients[0]!;
    const of = { step: 0, share: 0 };
    const two = new Float32Array(2);
    expect(() => client.push({ start: 22, end: 24 }, two, of)).toThrow("no part of the keys");
    expect(() => client.push({ start: 0, end: 3 }, two, of)).toThrow("2 values for 3 keys");
    expect(() => client.pushSparse(Uint32Array.of(3, 1), two, of)).toThrow("key 1 comes after 3");
    expect(() => client.pushSparse(Uint32Array.of(1), two, of)).toThrow("2 values for 1 keys");
    expect(() => client.pullSparse(new Uint32Array(0), new Float32Array(0), { leastVersion: 0 })).toThrow("no key");
    expect(client.counters.messagesSent).toBe(0);
  });
});

describe("server functions", () => {
  const kernels = loadKernels("wasm-exact", new EngineMemory(0).memory);

  test("the proximal step of the Lasso is that of its closed form", () => {
    const block = { weights: Float32Array.of(1, -1, 0.05, 0), gradient: Float32Array.of(1, 1, 0, -3), states: [] };
    proximalLasso(0.5)(kernels, 0.25).update(block, 0);
    expect([...block.weights]).toEqual([1 - 0.25 - 0.125, -(1 + 0.25 - 0.125), 0, 0.75 - 0.125]);
    expect([...block.gradient]).toEqual([0, 0, 0, 0]);
  });

  test("are defined by name, once, and an unknown one is refused", async () => {
    const functions = new ServerFunctions();
    functions.define("lasso", proximalLasso(0.5));
    expect(() => functions.define("lasso", proximalLasso(1))).toThrow(
      'a server function named "lasso" is there already',
    );
    expect(() => functions.make("median", kernels, 1)).toThrow('server function "median" is unknown');
    const init = { create: memory, keys: KEYS, servers: 2, clients: 1, consistency: BSP, rate: 0.25 };
    await using group = await KeyGroup.start({ ...init, functions, function: "lasso" });
    const client = group.clients[0]!;
    client.push({ start: 0, end: KEYS }, new Float32Array(KEYS).fill(-2), { step: 0, share: 0 });
    const into = new Float32Array(KEYS);
    await soon(client.wait(client.pull({ start: 0, end: KEYS }, into, { leastVersion: 1 })), "the step");
    expect([...new Set(into)]).toEqual([0.5 - 0.125]);
  });
});
