/** @file Schedules as text: read back, refused with task and line named, and held against the simulator where nodes wait for ever. */
import { describe, expect, test } from "vitest";
import { parseSchedule, printSchedule, validateSchedule } from "../../ring/core/schedule-text.ts";
import { isFused, scheduleOf, type ListKind, type Task } from "../../ring/core/schedule.ts";
import { RingSimulator } from "../../ring/simulation/simulator.ts";
import { UsageError } from "../../src/types/errors.ts";
import { RandomStream } from "../../src/types/random.ts";

const freshSeed = Number(process.env["TEST_SEED"] ?? Math.floor(Math.random() * 1e9));

const listsOf = (kind: ListKind, nodes: number, microBatches: number, laps = 1): readonly (readonly Task[])[] =>
  Array.from({ length: nodes }, (_, node) => scheduleOf({ kind, nodes, laps, microBatches }, node));

describe("lists of the known schedules", () => {
  test.each([
    ["naive", 3, 4, 1],
    ["gpipe", 4, 5, 1],
    ["1f1b", 5, 3, 1],
    ["interleaved", 3, 6, 2],
    ["zb-h1", 4, 7, 1],
  ] as const)("%s is printed, read back and found whole", (kind, nodes, microBatches, laps) => {
    const lists = listsOf(kind, nodes, microBatches, laps);
    const read = parseSchedule(`${printSchedule(lists)}\n`);
    expect(read).toEqual(lists);
    expect(validateSchedule(read, isFused(kind))).toEqual({ nodes, laps, microBatches, tasks: lists });
  });
});

describe("refused", () => {
  test.each([
    ["0F0 0B0 0W0\n1F0 1W0 1B0", "line 2: 1W0 comes before 1B0"],
    ["0B0 0F0 0W0", "line 1: 0B0 comes before 0F0"],
    ["0F0 0B0\n1F0 1B0 1W0", "line 1: 0W0 is missing"],
    ["0F0 0F0 0B0 0W0", "line 1: 0F0 stands twice"],
    ["0F1 0F0 0B0 0W0 0B1 0W1", "line 1: 0F1 comes before 0F0"],
    ["0F0 0F1 0B1 0B0 0W0 0W1", "line 1: 0B1 comes before 0B0"],
    ["0F0 0F1 0B0 0B1 0W1 0W0", "line 1: 0W1 comes before 0W0"],
    ["0F0 0B0 0W0\n2F0 2B0 2W0", "3 stages on 2 nodes"],
    ["1F0 1B0 1W0\n0F0 0B0 0W0", "line 1: 1F0 is not node 0's"],
    ["0F0 0B999999999 0W0", "1 stages with 1000000000 micro-batches"],
    ["0F0 0B0 0W0\n\n1F0 1B0 1W0", 'line 2: "" is not a task'],
    ["0F0 0B0 0V0", 'line 1: "0V0" is not a task'],
    ["", 'line 1: "" is not a task'],
  ])("%j: %s", (text, cause) => {
    const run = (): unknown => validateSchedule(parseSchedule(text));
    expect(run).toThrow(UsageError);
    expect(run).toThrow(`schedule: ${cause}`);
  });

  test("a W apart from its B, where the two are one operation", () => {
    const tasks = parseSchedule("0F0 0F1 0B0 0B1 0W0 0W1");
    expect(() => validateSchedule(tasks, true)).toThrow("line 1: 0W0 does not stand right behind its B");
    expect(validateSchedule(tasks).microBatches).toBe(2);
  });

  test("nodes that wait for each other for ever, with where each of them stands", () => {
    const tasks = parseSchedule("0F0 0B0 0W0 0F1 0B1 0W1\n1F0 1F1 1B0 1W0 1B1 1W1");
    expect(() => validateSchedule(tasks)).toThrow("line 1 waits at 0B0 for 1B0, and line 2 has stopped at 1F1");
  });
});

/** An order of node's tasks that is right in itself: F, B and W of each micro-batch, each kind in order. */
function drawLine(random: RandomStream, node: number, microBatches: number): string {
  const done = [0, 0, 0];
  const words: string[] = [];
  while (done[2]! < microBatches) {
    const possible = [0, 1, 2].filter((kind) => done[kind]! < (kind === 0 ? microBatches : done[kind - 1]!));
    const kind = possible[random.nextBelow(possible.length)]!;
    words.push(`${node}${"FBW"[kind]}${done[kind]}`);
    done[kind]! += 1;
  }
  return words.join(" ");
}

test(`a schedule is refused exactly where the simulator stands still, seed ${freshSeed}`, () => {
  const random = new RandomStream(freshSeed, 1);
  const counts = { runs: 0, stuck: 0 };
  for (let round = 0; round < 400; round += 1) {
    const nodes = 1 + random.nextBelow(4);
    const microBatches = 1 + random.nextBelow(4);
    const tasks = parseSchedule(
      Array.from({ length: nodes }, (_, node) => drawLine(random, node, microBatches)).join("\n"),
    );
    const costs = tasks.map(() => ({ laps: [{ forward: 1, backward: 1, weight: 1 }], update: 0 }));
    const shape = { kind: "zb-h1", nodes, laps: 1, microBatches } as const;
    const simulator = new RingSimulator({ shape, tasks, costs, steps: 2 });
    let refusal: unknown;
    try {
      validateSchedule(tasks);
    } catch (error) {
      refusal = error;
    }
    if (refusal === undefined) expect(simulator.run().tasks).toBe(2 * nodes * (3 * microBatches + 1));
    else expect(() => simulator.run(), printSchedule(tasks)).toThrow("stands still");
    counts[refusal === undefined ? "runs" : "stuck"] += 1;
  }
  expect(Math.min(counts.runs, counts.stuck)).toBeGreaterThan(40);
});
