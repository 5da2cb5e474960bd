/** @file What a simulation is told: defaults, forms, and what does not fit together. */
import { describe, expect, test } from "vitest";
import { parseSimulation } from "../../ring/simulation/settings.ts";
import { UsageError } from "../../src/types/errors.ts";

const noFile = (path: string): string => {
  throw new Error(`${path} is not to be read`);
};
const parse = (values: Readonly<Record<string, unknown>>, readText = noFile) => parseSimulation(values, readText);

test("without a model, times are units: one each, without latency", () => {
  const { run, units, jitter, given, isTimelineStated } = parse({ nodes: "3" });
  expect(units).toEqual({ forward: 1, backward: 1, weight: 1, hopLatency: 0, speeds: [1, 1, 1] });
  expect([run.nodes, run.steps, jitter, given, isTimelineStated]).toEqual([3, 4, null, null, false]);
});

test("what was stated, as text or as numbers, in either form of the name", () => {
  const stated = { costs: "1, 1.2,.8", "hop-latency": "0.5", jitter: 0.3, speeds: "2,1", nodes: 2, timeline: "all" };
  const { units, jitter, isTimelineStated } = parse(stated);
  expect(units).toEqual({ forward: 1, backward: 1.2, weight: 0.8, hopLatency: 0.5, speeds: [2, 1] });
  expect([jitter, isTimelineStated]).toEqual([0.3, true]);
});

test("more nodes than a real run may have, and as many micro-batches as are wanted: there is no batch to divide", () => {
  const { run } = parse({ nodes: 4096, microBatches: 999 });
  expect([run.nodes, run.microBatches]).toEqual([4096, 999]);
});

test("the resolved settings give the same simulation again", () => {
  for (const stated of [
    { nodes: 5, costs: "1,2,3", schedule: "1f1b", jitter: "0.1", speeds: "1,2,3,4,5", seed: 9 },
    { nodes: 2, model: "mlp:8-8-8", pace: "1,2GFLOP/s", link: "1ms", steps: 7 },
  ]) {
    const first = parse(stated);
    const again = parse(JSON.parse(JSON.stringify(first.config)) as Record<string, unknown>);
    expect({ ...again, isTimelineStated: false }).toEqual(first);
  }
});

describe("a schedule from a file", () => {
  const text = "0F0 0F1 0B0 0W0 0B1 0W1\n1F0 1B0 1W0 1F1 1B1 1W1\n";

  test("brings its counts", () => {
    const { run, given } = parse({ tasks: "tasks.txt" }, () => text);
    expect([run.nodes, run.laps, run.microBatches, run.schedule]).toEqual([2, 1, 2, "zb-h1"]);
    expect(given?.tasks[1]?.length).toBe(6);
  });

  test("may have B and W as one operation", () => {
    expect(parse({ tasks: "tasks.txt", schedule: "1f1b" }, () => text).run.schedule).toBe("1f1b");
  });

  test.each([
    [{ nodes: 3 }, "-n 3: the tasks are for 2"],
    [{ microBatches: "4" }, '--micro-batches "4": the tasks are for 2'],
    [{ schedule: "zero-bubble" }, "--schedule zero-bubble with --tasks"],
  ])("does not go with %j", (stated, cause) => {
    expect(() => parse({ tasks: "tasks.txt", ...stated }, () => text)).toThrow(cause);
  });
});

describe("refused", () => {
  const model = { model: "mlp:8-8-8", pace: "1GFLOP/s", nodes: 2 };

  test.each([
    [{ costs: "1,-1,1" }, '--costs "1,-1,1": numbers from 0'],
    [{ costs: "1,1" }, "--costs 1,1: three numbers are needed"],
    [{ costs: "1,1,1,1" }, "three numbers are needed"],
    [{ costs: "0,0,0" }, "not all 0"],
    [{ costs: "1,x,1" }, "numbers from 0"],
    [{ costs: "1,,1" }, "numbers from 0"],
    [{ costs: "1,1e99,1" }, "numbers from 0"],
    [{ hopLatency: "-0.5" }, '--hop-latency "-0.5"'],
    [{ hopLatency: "5ms" }, '--hop-latency "5ms"'],
    [{ jitter: "NaN" }, '--jitter "NaN"'],
    [{ speeds: "1,2,3" }, "--speeds 1,2,3 has 3 speeds for 4 nodes"],
    [{ speeds: "1,0,1,1" }, "a speed of 0"],
    [{ nodes: 4097 }, "-n 4097: a whole number from 1 to 4096"],
    [{ nodes: 0 }, "-n 0"],
    [{ steps: 0 }, "--steps 0"],
    [{ schedule: "2f2b" }, "--schedule"],
    [{ schedule: "1f1b", laps: 2 }, "it has no laps"],
    [{ laps: 2, nodes: 3, microBatches: 8 }, "2 laps need --micro-batches divisible by the 3 nodes"],
    [{ schedule: "zb-h1", nodes: 9, microBatches: 8 }, "at least as many micro-batches as nodes"],
    [{ pace: "1GFLOP/s" }, "--pace 1GFLOP/s"],
    [{ link: "5ms" }, "--link 5ms"],
    [{ memoryLimit: "1GiB" }, "--memory-limit 1GiB"],
    [{ ...model, costs: "1,1,1" }, "--costs 1,1,1: it is of unit costs"],
    [{ ...model, speeds: "1,1" }, "--speeds 1,1: it is of unit costs"],
    [{ ...model, hopLatency: "1" }, "--hop-latency 1: it is of unit costs"],
    [{ system: "serial" }, `--system "serial": only rings`],
    [{ hopLatnecy: "1" }, 'unknown setting "hopLatnecy"'],
    [{ from: "run" }, "--from"],
  ])("%j: %s", (values, cause) => {
    expect(() => parse(values)).toThrow(UsageError);
    expect(() => parse(values)).toThrow(cause);
  });
});
