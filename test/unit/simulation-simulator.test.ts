/** @file The simulated ring, counted by hand: messages that wait for each other, slices, hand-overs, and what is told of them. */
import { describe, expect, test } from "vitest";
import type { ScheduleShape } from "../../ring/core/schedule.ts";
import type { LinkModel } from "../../ring/simulation/links.ts";
import { RingSimulator, type SimulatedMessage, type SimulatedTask } from "../../ring/simulation/simulator.ts";
import type { SimulationInit } from "../../ring/simulation/simulator.ts";

function run(shape: ScheduleShape, more: Partial<SimulationInit> = {}) {
  const [tasks, messages]: [SimulatedTask[], SimulatedMessage[]] = [[], []];
  const costs = Array.from({ length: shape.nodes }, () => ({
    laps: [{ forward: 1, backward: 2, weight: 3 }],
    update: 0,
  }));
  const onTask = (task: SimulatedTask): void => void tasks.push(task);
  const onMessage = (message: SimulatedMessage): void => void messages.push(message);
  const outcome = new RingSimulator({ shape, costs, steps: 1, onTask, onMessage, ...more }).run();
  return { ...outcome, all: tasks, messages };
}

/** Two nodes, all forwards before all backwards. */
const gpipe = (microBatches: number): ScheduleShape => ({ kind: "gpipe", nodes: 2, laps: 1, microBatches });

describe("messages of two activations that are sent one unit apart", () => {
  const arrivals = (link: LinkModel): readonly number[] =>
    run(gpipe(2), { link })
      .messages.filter(({ to }) => to === 1)
      .map(({ received }) => received);

  test.each([
    ["take their latency side by side", { latency: 5 }, [6, 7]],
    ["share the wire", { latency: 5, transfers: [4] }, [1 + 4 + 5, 1 + 8 + 5]],
    ["share the sender's thread", { latency: 0, sendCpu: 3 }, [1 + 3, 1 + 6]],
    ["share the receiver's thread", { latency: 5, receiveCpu: 3 }, [6 + 3, 6 + 6]],
    ["keep their order, whatever chance adds", { latency: 0, extra: extraOnce(10) }, [1 + 10, 1 + 10]],
  ])("%s", (_, link, expected) => {
    expect(arrivals(link)).toEqual(expected);
  });

  function extraOnce(extra: number): () => number {
    const values = [extra];
    return () => values.shift() ?? 0;
  }
});

test("messages under way do not keep their receiver from sending", () => {
  const shape: ScheduleShape = { kind: "gpipe", nodes: 3, laps: 1, microBatches: 4 };
  const { messages } = run(shape, { link: { latency: 5, sendCpu: 0.5, receiveCpu: 0.5 } });
  const relayed = messages.find(({ from, to, microBatch }) => from === 1 && to === 2 && microBatch === 0);
  // F at node 0, message of 6, F at node 1 from 7 to 8; micro-batches 2 and 3 come out of the wire at 8.5 and 9.5.
  expect(relayed).toEqual({ from: 1, to: 2, step: 0, microBatch: 0, sent: 8, received: 14 });
});

test("slices of a W take its time together, and other operations come between them", () => {
  const shape: ScheduleShape = { kind: "zero-bubble", nodes: 2, laps: 1, microBatches: 2 };
  const { all, nodes } = run(shape, { slices: [[3], [3]] });
  const weights = all.filter(({ kind, node }) => kind === "W" && node === 0);
  expect(weights.map(({ start, end }) => end - start)).toEqual([1, 1, 1, 1, 1, 1]);
  expect(nodes[0]?.busyUntil.at(-1)).toBe(2 * 6);
});

test("an operation is handed over before it runs: communication, not work", () => {
  const { nodes, all } = run(gpipe(2), { operationOverhead: 0.25 });
  // F, F, B with W, B with W, and the update.
  expect(nodes[0]?.communicationUntil.at(-1)).toBe(5 * 0.25);
  expect(nodes[0]?.busyUntil.at(-1)).toBe(2 * 6);
  expect(all.find(({ node, kind }) => node === 1 && kind === "F")).toMatchObject({ start: 1.5, end: 2.5 });
});

test("messages that are handled while no operation runs are communication", () => {
  const { nodes } = run(gpipe(1), { link: { latency: 0, sendCpu: 1, receiveCpu: 2 } });
  // Node 0 sends, waits for node 1, and receives.
  expect(nodes[0]?.communicationUntil.at(-1)).toBe(1 + 2);
});

test("windows and memory: no more micro-batches are held than may be", () => {
  const shape: ScheduleShape = { kind: "zero-bubble", nodes: 4, laps: 1, microBatches: 16 };
  const heldMax = [2, 3, 4, 5];
  const { all } = run(shape, { heldMax, steps: 2 });
  const held = [0, 0, 0, 0];
  const most = [0, 0, 0, 0];
  const events = all.flatMap(({ node, kind, start, end }) => {
    if (kind === "F") return [{ node, at: start, by: 1 }];
    return kind === "W" ? [{ node, at: end, by: -1 }] : [];
  });
  for (const { node, by } of events.toSorted((a, b) => a.at - b.at || a.by - b.by)) {
    held[node]! += by;
    most[node] = Math.max(most[node]!, held[node]!);
  }
  expect(most.every((count, node) => count <= heldMax[node]!)).toBe(true);
  expect(most[0]).toBe(2);
});

test("progress is told as operations are done", () => {
  const told: number[] = [];
  const { tasks } = run(
    { kind: "1f1b", nodes: 8, laps: 1, microBatches: 8192 },
    { steps: 6, onProgress: (done) => told.push(done) },
  );
  expect(tasks).toBe(6 * 8 * (3 * 8192 + 1));
  expect(told.length).toBe(2);
});
