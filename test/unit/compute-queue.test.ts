/** @file Operations of the stage and of replication in one compute thread: their order, their results, and its interruption. */
import { afterEach, describe, expect, test } from "vitest";
import { nowMs } from "../../src/runtime/clock.ts";
import { ComputeChannel } from "../../src/runtime/compute-channel.ts";
import type { ComputeInit } from "../../src/runtime/compute-operations.ts";
import { ComputeThread } from "../../src/runtime/compute-thread.ts";
import { AssertionFailed } from "../../src/types/assert.ts";
import { InterruptedError, UsageError } from "../../src/types/errors.ts";
import { RandomStream } from "../../src/types/random.ts";
import { digestLines } from "../helpers/replicated-threads.ts";
import { freshSeed, setting } from "../helpers/segments.ts";

const common = setting({ model: "mlp:19-17-16-9-5", optimizer: "adam" });
const init: ComputeInit = {
  segments: [{ ...common, layers: [0, 2] }],
  redundancy: { replicas: [{ ...common, layers: [2, 4] }, { ...common, layers: [0, 2] }] },
  engine: "wasm-exact",
}; // prettier-ignore

const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0)) await cleanup();
});

async function start(changes: Partial<ComputeInit> = {}, channel?: ComputeChannel): Promise<ComputeThread> {
  const thread = await ComputeThread.start({ ...init, ...changes }, channel);
  cleanups.push(() => thread.stop());
  return thread;
}

const slice = (step: number, index = 0, slices = 1, replica = 0) =>
  ({ kind: "replicaUpdate", replica, step, slice: index, slices }) as const;

describe("order", () => {
  test("what is inserted runs after what is under way, in order, and before a later run", async () => {
    const thread = await start();
    const ends: string[] = [];
    const done = (name: string) => (): void => void ends.push(name);
    const all = [thread.run({ kind: "digests" }).then(done("run"))];
    for (let i = 0; i < 3; i++) all.push(thread.insert(slice(0, i, 3)).then(done(`slice ${i}`)));
    await all[0];
    all.push(thread.run({ kind: "update", step: 0 }).then(done("update")));
    expect(() => thread.run({ kind: "digests" })).toThrow("one operation at a time");
    await Promise.all(all);
    expect(ends).toEqual(["run", "slice 0", "slice 1", "slice 2", "update"]);
  });

  test.each([[5], [freshSeed]])("any mix of runs and inserts gives each its own result (seed %i)", async (seed) => {
    const thread = await start();
    const random = new RandomStream(seed, 1004);
    const next = (end: number): number => Math.floor(random.nextFloat() * end);
    const checks: Promise<void>[] = [];
    let inserted = 0;
    /** A slice of one of the replicas, the digests, or what must fail. */
    const steps = [0, 0];
    const insertOne = (): void => {
      const kind = next(4);
      inserted++;
      if (kind < 2) {
        const step = steps[kind]!++;
        const expected = kind === 0 ? [2, 3] : [0, 1];
        const result = thread.insert(slice(step, 0, 1, kind));
        checks.push(result.then(({ states }) => expect(states.map(({ layer }) => layer)).toEqual(expected)));
      } else if (kind === 2) {
        const result = thread.insert<"digests">({ kind: "digests" });
        checks.push(result.then(({ digests }) => expect(digests.length).toBe(2)));
      } else {
        const wrong = 1000 + inserted;
        const result = thread.insert(slice(wrong));
        checks.push(expect(result, `seed ${seed}`).rejects.toThrow(`not ${wrong}`));
      }
    };
    for (let round = 0; round < 150; round++) {
      for (let count = next(3); count > 0; count--) insertOne();
      const run = thread.run<"update">({ kind: "update", step: round });
      for (let count = next(4); count > 0; count--) insertOne();
      expect((await run).states.map(({ layer }) => layer)).toEqual([0, 1]);
    }
    await Promise.all(checks);
    // Own layers and their replica did as many steps as they were told to.
    expect(thread.versions().map(({ version }) => version)).toEqual(
      [150, ...steps].flatMap((version) => [version - 1, version].flatMap((each) => [each, each])),
    );
  });

  test("more than a bounded number does not wait", async () => {
    const thread = await start();
    const all = Array.from({ length: 1024 }, () => thread.insert({ kind: "digests" }));
    expect(() => thread.insert({ kind: "digests" })).toThrow(AssertionFailed);
    await Promise.all(all);
    await thread.insert({ kind: "digests" });
  });
});

describe("interruption", () => {
  /** Its forward pass takes a minute. */
  const PACE = (2 * 4 * (19 * 17 + 17 * 16)) / 60e9;

  test("a paced pass is broken off at once; what waits is refused; the states are there", async () => {
    const thread = await start({ pace: PACE });
    await thread.insert(slice(0, 0, 2));
    const before = thread.versions();
    const all = [thread.run({ kind: "forward", lap: 0, slot: 0 }), thread.insert(slice(0, 1, 2))];
    const refused = Promise.all(all.map((one) => expect(one).rejects.toThrow(InterruptedError)));
    const beginMs = nowMs();
    await thread.interrupt();
    expect(nowMs() - beginMs).toBeLessThan(5000);
    await refused;
    await expect(thread.run({ kind: "digests" })).rejects.toThrow(InterruptedError);
    await expect(thread.insert({ kind: "digests" })).rejects.toThrow(InterruptedError);
    expect(thread.versions()).toEqual(before);
    const layers = thread.stateBlocks(0).slice(0, 4);
    expect(layers.map(({ layer }) => layer)).toEqual([0, 1, 2, 3]);
    const again = await start({ blocks: { step: 0, layers } });
    expect(digestLines([again], 0)).toEqual(digestLines([await start()], 0));
  });

  test.each(["update", "replicaUpdate"] as const)("an %s under way is finished, and counts", async (kind) => {
    const thread = await start();
    const result = kind === "update" ? thread.run<"update">({ kind, step: 0 }) : thread.insert(slice(0));
    expect(() => thread.versions()).toThrow(`no ${kind} is under way`);
    expect(() => thread.stateBlocks(0)).toThrow(AssertionFailed);
    const later = expect(thread.insert(slice(0, 0, 1, 1))).rejects.toThrow(InterruptedError);
    await thread.interrupt();
    await later;
    const { states } = await result;
    expect(thread.versions().filter(({ version }) => version === 1)).toEqual(
      states.map((state) => ({ ...state, version: 1 })),
    );
    expect(thread.stateBlocks(1).length).toBe(2);
    await thread.interrupt();
  });

  test("a thread that is stopped in an update has no whole state left", async () => {
    const thread = await start();
    const torn = expect(thread.run({ kind: "update", step: 0 })).rejects.toThrow(InterruptedError);
    await thread.stop();
    await torn;
    expect(thread.versions()).toEqual([]);
    expect(thread.stateBlocks(0)).toEqual([]);
  });

  test("no replica is filled while an operation of it waits", async () => {
    const thread = await start();
    const blocks = thread.stateBlocks(0).slice(0, 4);
    const pending = thread.insert(slice(0));
    expect(() => thread.fillReplica(0, blocks, 0)).toThrow("no operation of replica 0 waits");
    const filled = thread.fillReplica(1, blocks, 0);
    expect((await pending).states.length + (await filled).states.length).toBe(4);
    const busy = thread.run({ kind: "digests" });
    const before = thread.versions().length;
    const again = thread.fillReplica(1, blocks, 0);
    // Its arrays are written already, and nothing has digested them.
    expect(thread.versions().length).toBe(before - 2);
    await Promise.all([busy, again]);
    expect(thread.versions().length).toBe(before);
  });
});

describe("a channel that boots ahead", () => {
  test("serves the thread that starts with it, and is closed where the start fails", async () => {
    const thread = await start({}, new ComputeChannel());
    expect((await thread.run<"digests">({ kind: "digests" })).digests.length).toBe(2);
    const channel = new ComputeChannel();
    await expect(start({ segments: [{ ...init.segments[0]!, model: "mlp:0" }] }, channel)).rejects.toThrow(UsageError);
    expect(channel.hasEnded).toBe(true);
  });

  test("takes one message at a time, and none when closed", async () => {
    const channel = new ComputeChannel();
    const first = expect(channel.request({ kind: "digests" })).rejects.toThrow(InterruptedError);
    expect(() => channel.request({ kind: "digests" })).toThrow("one message at a time");
    await channel.close(new InterruptedError("closed", ""));
    await first;
    await expect(channel.request({ kind: "digests" })).rejects.toThrow("closed");
  });
});
