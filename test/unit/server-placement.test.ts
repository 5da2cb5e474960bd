/** @file Where shards are while servers join, leave and die: balance, what moves, and that no shard has fewer copies than it must while one can. */
import { expect, test } from "vitest";
import { Placement, placeIn } from "../../baseline-ps/core/placement.ts";
import { RandomStream } from "../../src/types/random.ts";

const heads = (servers: number, each: number): number[] =>
  Array.from({ length: servers * each }, (_, shard) => Math.floor(shard / each));

/** Copies arrive until nothing is under way. */
function settle(placement: Placement, changes = 10_000): void {
  for (let left = changes; left > 0; left -= 1) {
    const shard = placement.chains.findIndex(({ isCopying }) => isCopying);
    if (shard < 0) return;
    placement.handle({ kind: "copied", shard, epoch: placement.chains[shard]!.epoch });
  }
  throw new Error("it does not come to rest");
}

function loads(placement: Placement): Map<number, number> {
  const counts = new Map(placement.servers.map((server) => [server, 0]));
  for (const { servers } of placement.chains) counts.set(servers[0]!, (counts.get(servers[0]!) ?? 0) + 1);
  return counts;
}

test.each([
  [1, 0],
  [2, 1],
  [4, 1],
  [4, 2],
  [7, 3],
])("%i servers with %i replicas: a joiner gets its part of the shards, and nothing else moves", (servers, replicas) => {
  const placement = new Placement({ heads: heads(servers, 16), replicas });
  const before = placement.chains.map((chain) => chain.servers[0]!);
  placement.handle({ kind: "joined", server: servers });
  settle(placement);
  const after = placement.chains.map((chain) => chain.servers[0]!);
  const moved = after.filter((head, shard) => head !== before[shard]);
  expect(moved).toHaveLength(Math.floor((servers * 16) / (servers + 1)));
  expect(new Set(moved)).toEqual(new Set([servers]));
  const counts = [...loads(placement).values()];
  expect(Math.max(...counts) - Math.min(...counts)).toBeLessThanOrEqual(1);
  for (const chain of placement.chains) expect(new Set(chain.servers).size).toBe(replicas + 1);
});

test("what a dead server had is taken by those that have copies, and every shard has as many as before again", () => {
  const placement = new Placement({ heads: heads(4, 16), replicas: 1 });
  const before = placement.chains.map(({ servers }) => servers);
  const outputs = placement.handle({ kind: "lost", server: 2 });
  expect(outputs).toEqual([{ kind: "changed" }]);
  for (const [shard, { servers }] of placement.chains.entries()) {
    const left = before[shard]!.filter((server) => server !== 2);
    expect(servers.slice(0, left.length)).toEqual(left);
  }
  settle(placement);
  for (const { servers } of placement.chains) expect(servers).toHaveLength(2);
  const heirs = new Set(
    placement.chains.filter((_, shard) => before[shard]![0] === 2).map(({ servers }) => servers[0]),
  );
  expect(heirs.size).toBe(3);
});

test("who leaves is free when nothing is with it any more", () => {
  const placement = new Placement({ heads: heads(3, 8), replicas: 1 });
  expect(new Placement({ heads: heads(2, 8), replicas: 1 }).handle({ kind: "leaves", server: 0 })).toEqual([]);
  expect(placement.handle({ kind: "leaves", server: 0 }).map(({ kind }) => kind)).not.toContain("free");
  let isFree = false;
  for (let left = 1000; !isFree && left > 0; left -= 1) {
    const shard = placement.chains.findIndex(({ isCopying }) => isCopying);
    const outputs = placement.handle({ kind: "copied", shard, epoch: placement.chains[shard]!.epoch });
    isFree = outputs.some((output) => output.kind === "free" && output.server === 0);
  }
  expect(isFree).toBe(true);
  expect(placement.servers).toEqual([1, 2]);
  for (const { servers } of placement.chains) expect(servers).not.toContain(0);
});

test("shards without any copy left are told", () => {
  const placement = new Placement({ heads: heads(3, 4), replicas: 1 });
  placement.handle({ kind: "lost", server: 0 });
  const outputs = placement.handle({ kind: "lost", server: 1 });
  const gone = outputs.flatMap((output) => (output.kind === "gone" ? output.shards : []));
  expect(gone.length).toBeGreaterThan(0);
});

const SEED = Math.floor(Math.random() * 2 ** 31);
test(`any order of events: no shard is given up while a server has it, copies are never fewer than they must be (seed ${SEED})`, () => {
  for (let run = 0; run < 60; run += 1) {
    const random = new RandomStream(SEED, run);
    const replicas = random.nextBelow(3);
    const first = replicas + 1 + random.nextBelow(3);
    const placement = new Placement({ heads: heads(first, 1 + random.nextBelow(6)), replicas });
    /** By shard: servers that have its values. */
    const holders = placement.chains.map(({ servers }) => new Set(servers));
    let next = first;
    for (let event = 0; event < 60; event += 1) {
      const copying = [...placement.chains.keys()].filter((shard) => placement.chains[shard]!.isCopying);
      const others = placement.servers;
      const kind = random.nextBelow(8);
      const before = placement.chains.map(({ servers }) => servers);
      let dead = -1;
      if (kind === 0 && others.length > replicas + 1) {
        dead = others[random.nextBelow(others.length)]!;
        const outputs = placement.handle({ kind: "lost", server: dead });
        for (const held of holders) held.delete(dead);
        const gone = new Set(outputs.flatMap((output) => (output.kind === "gone" ? output.shards : [])));
        for (const [shard, held] of holders.entries()) expect(gone.has(shard)).toBe(held.size === 0);
        if (gone.size > 0) break;
      } else if (kind === 1) placement.handle({ kind: "joined", server: next++ });
      else if (kind === 2) placement.handle({ kind: "leaves", server: others[random.nextBelow(others.length)]! });
      else if (copying.length > 0) {
        const shard = copying[random.nextBelow(copying.length)]!;
        const chain = placement.chains[shard]!;
        holders[shard]!.add(chain.servers.at(-1)!);
        placement.handle({ kind: "copied", shard, epoch: chain.epoch });
      }
      for (const [shard, { servers, isCopying }] of placement.chains.entries()) {
        const whole = isCopying ? servers.slice(0, -1) : servers;
        for (const server of holders[shard]!) if (!whole.includes(server)) holders[shard]!.delete(server);
        for (const server of whole) expect(holders[shard]!.has(server)).toBe(true);
        if (dead < 0)
          expect(whole.length).toBeGreaterThanOrEqual(
            Math.min(before[shard]!.length, replicas + 1, whole.length + 1) - 1,
          );
        expect(new Set(servers).size).toBe(servers.length);
        for (const [index, server] of servers.entries()) {
          expect(placeIn(placement.chains[shard]!, server)).toMatchObject({ previous: servers[index - 1] ?? null });
        }
      }
    }
    settle(placement);
  }
});
