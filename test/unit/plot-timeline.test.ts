/** @file The figure of one step: which step, which bars, which words, colours and numbers; oracle: a run made by hand. */
import { describe, expect, test } from "vitest";
import { runTitle, timeUnit } from "../../src/plot/caption.ts";
import { stepWindow, type StepWindow } from "../../src/plot/step-window.ts";
import { terminalFigure } from "../../src/plot/terminal.ts";
import { timelineFigure } from "../../src/plot/timeline-figure.ts";
import { defined } from "../../src/types/assert.ts";
import { entry, MADE_SUMMARY, madeTimelines } from "../helpers/made-run.ts";

const RUN = { summary: MADE_SUMMARY, gitCommit: "0123456789abcdef" };
const windowOf = (timelines: Parameters<typeof stepWindow>[0]): StepWindow =>
  defined(stepWindow(timelines), "something was kept");

interface Layer {
  readonly data: { readonly values: readonly Record<string, unknown>[] };
  readonly encoding: { readonly color?: { readonly scale?: unknown; readonly legend?: unknown } };
}
const layersOf = (run: Parameters<typeof timelineFigure>[0], window: StepWindow): readonly Layer[] =>
  (timelineFigure(run, window) as unknown as { readonly layer: readonly Layer[] }).layer;
const barsOf = (run: Parameters<typeof timelineFigure>[0], window: StepWindow) =>
  defined(layersOf(run, window)[1], "the bars");

describe("the window", () => {
  test("is the middle step, from its first forward to its last update, and cuts what reaches in", () => {
    const { step, length, nodes, bars } = windowOf(madeTimelines(5));
    expect({ step, length, nodes }).toEqual({ step: 2, length: 21, nodes: [0, 1] });
    const tell = ({ kind, microBatch, start, end, isNeighbour }: (typeof bars)[number]): string =>
      `${isNeighbour ? "other " : ""}${kind}${microBatch} ${start}-${end}`;
    expect(bars.filter((bar) => bar.node === 0).map(tell)).toEqual([
      ...["F0 0-2", "F1 2-4", "B0 8-10", "W0 10-11", "B1 11-13", "W1 13-14", "update0 14-15", "other F0 20-21"],
    ]);
    expect(bars.filter((bar) => bar.node === 1).map(tell)).toEqual([
      ...["other update0 0-1", "F0 3-5", "F1 5-7", "B0 7-9", "W0 9-10", "B1 10-12", "W1 12-13", "update0 18-21"],
    ]);
  });

  test.each([
    [1, 0],
    [2, 1],
    [3, 1],
    [20, 10],
  ])("of %i steps is step %i: not the first where there is another", (steps, step) => {
    expect(windowOf(madeTimelines(steps)).step).toBe(step);
  });

  test("is of a step that most nodes kept, and has the nodes that kept anything, in order", () => {
    const [first, second] = madeTimelines(6);
    const late = { node: 1, entries: defined(second, "two").entries.filter((one) => one.step >= 4) };
    const idle = { node: 2, entries: [entry("wait", 0, 0, 9)] };
    expect(windowOf([late, idle, defined(first, "two")])).toMatchObject({ step: 5, nodes: [0, 1] });
    expect(stepWindow([idle])).toBeUndefined();
    expect(stepWindow([])).toBeUndefined();
  });
});

describe("the figure", () => {
  test("says what came out, of what, in what unit", () => {
    const emulated = { pace: "2GFLOP/s", link: null, memoryLimit: "256MiB" };
    const run = { ...RUN, summary: { ...MADE_SUMMARY, emulated, nodes: 3 } };
    const figure = timelineFigure(run, windowOf(madeTimelines(3)));
    expect(figure.title).toEqual({
      text: "gpipe, 3 nodes, 2 micro-batches: 33.3 % idle",
      subtitle:
        "mlp:4-4-2 · engine wasm · emulated: pace 2GFLOP/s, memory limit 256MiB · commit 0123456 · without the timelines of 1 node",
    });
    expect(JSON.stringify(figure)).toContain('"ms since the start of step 1; paler: other steps"');
    const simulated = { ...MADE_SUMMARY, system: "serial", schedule: null, nodes: 1, simulated: true };
    expect(runTitle({ ...simulated, idlePercentSteady: null })).toBe("serial, 1 node, 2 micro-batches: unknown idle");
    expect(timeUnit(simulated)).toBe("ms");
    expect(timeUnit({ ...simulated, timeUnit: "units" })).toBe("units");
    const { title } = timelineFigure({ summary: simulated, gitCommit: undefined }, windowOf(madeTimelines(3)));
    expect(title).toMatchObject({ subtitle: "mlp:4-4-2 · engine wasm · simulated" });
  });

  test("has a row a node, with its idle time, and a bar an operation, with its number", () => {
    const [tracks, bars, numbers] = layersOf(RUN, windowOf(madeTimelines(3)));
    expect(tracks?.data.values).toEqual([
      { row: "node 0", start: 0, end: 21, idle: "30 % idle" },
      { row: "node 1", start: 0, end: 21, idle: "37 % idle" },
    ]);
    expect(bars?.data.values.length).toBe(16);
    expect(bars?.data.values.slice(0, 3)).toMatchObject([
      { row: "node 0", series: "forward", start: 0, end: 2, middle: 1, number: "0", ink: "#ffffff" },
      { row: "node 0", series: "forward", start: 2, end: 4, middle: 3, number: "1", ink: "#ffffff" },
      { row: "node 0", series: "backward, inputs", start: 8, end: 10, middle: 9, number: "0", ink: "#111111" },
    ]);
    expect(numbers?.data.values.map(({ number }) => number).join("")).toBe("010011010011");
    expect(bars?.encoding.color).toMatchObject({
      scale: {
        domain: [
          ...["forward", "forward, other step", "backward, inputs", "backward, weights"],
          ...["update", "update, other step", "idle, messages, run queue"],
        ],
        range: ["#0072b2", "#b8d8e9", "#e69f00", "#009e73", "#cc79a7", "#f1d9e6", "#e6e9ed"],
      },
      legend: { values: ["forward", "backward, inputs", "backward, weights", "update", "idle, messages, run queue"] },
    });
  });

  test("tells laps apart by shade, and by name", () => {
    const entries = [0, 1, 2, 3].map((at) => entry("F", at >> 1, at, at + 1, { lap: at % 2 }));
    const bars = barsOf({ ...RUN, summary: { ...MADE_SUMMARY, laps: 2 } }, windowOf([{ node: 0, entries }]));
    expect(bars.data.values.map(({ series, number }) => `${String(series)}: ${String(number)}`)).toEqual([
      ...["forward, lap 0: 0", "forward, lap 1: 0", "forward, lap 0: 1", "forward, lap 1: 1"],
    ]);
    expect(bars.encoding.color?.scale).toMatchObject({ range: ["#0072b2", "#80b9d9", "#e6e9ed"] });
  });

  test("has no number where it does not fit, and loses no short bar", () => {
    const entries = [entry("F", 0, 0, 0.01), entry("F", 1, 1, 2), entry("F", 10, 2, 3), entry("update", 0, 99, 100)];
    const bars = barsOf(RUN, windowOf([{ node: 0, entries }])).data.values;
    expect(bars.map(({ number }) => number)).toEqual(["", "", "", ""]);
    expect(Number(bars[0]?.["end"])).toBeGreaterThan(0.1);
    const wide = entries.slice(1, 3);
    expect(barsOf(RUN, windowOf([{ node: 0, entries: wide }])).data.values.map(({ number }) => number)).toEqual([
      ...["1", "10"],
    ]);
  });
});

describe("on a terminal", () => {
  const window = windowOf(madeTimelines(3));
  const lines = (text: string): readonly string[] => text.split("\n");

  test("letters where there are no colours, here two for a millisecond", () => {
    expect(lines(terminalFigure(RUN, window, { columns: 59, isColoured: false }))).toEqual([
      "gpipe, 2 nodes, 2 micro-batches: 33.3 % idle",
      "mlp:4-4-2 · engine wasm · commit 0123456",
      "step 1: 21.0 ms",
      "node 0 |FFFFFFFF........BBBBWWBBBBWWUU..........FF|  30.0 %",
      "node 1 |UU....FFFFFFFFBBBBWWBBBBWW..........UUUUUU|  36.7 %",
      "F forward  B backward, inputs  W backward, weights  U update  small: under half",
    ]);
  });

  test("a small letter, or a thin line, where less than half of the time is computing", () => {
    const entries = [entry("F", 0, 0, 0.1), entry("B", 0, 20, 21), entry("B", 1, 39, 40)];
    const sparse = windowOf([{ node: 0, entries }]);
    const track = (isColoured: boolean) => lines(terminalFigure(RUN, sparse, { columns: 37, isColoured }))[3];
    expect(track(false)).toBe("node 0 |f.........B........B|  30.0 %");
    const [forward, backward] = ["\u001b[38;5;32m", "\u001b[38;5;214m"];
    const [thin, left, right] = [`${forward}▏\u001b[0m`, `${backward}▌\u001b[0m`, `${backward}▐\u001b[0m`];
    expect(track(true)).toBe(`node 0 |${thin}${" ".repeat(9)}${left}${" ".repeat(8)}${right}|  30.0 %`);
  });

  test("blocks of two colours where there are, here one for a millisecond", () => {
    const [, , , first, , legend] = lines(terminalFigure(RUN, window, { columns: 38, isColoured: true }));
    const block = (left: number, right: number): string => `\u001b[38;5;${left};48;5;${right}m▌\u001b[0m`;
    const [forward, backward, weights, update] = [block(32, 32), block(214, 214), block(36, 36), block(175, 175)];
    const middle = `${backward.repeat(2)}${weights}${backward.repeat(2)}${weights}${update}`;
    expect(first).toBe(`node 0 |${forward.repeat(4)}    ${middle}     ${forward}|  30.0 %`);
    expect(legend).toContain("\u001b[38;5;36m█\u001b[0m backward, weights");
  });

  test("fits, and is never too narrow to say anything", () => {
    for (const columns of [10, 60, 80, 200]) {
      const plain = lines(terminalFigure(RUN, window, { columns, isColoured: false }));
      const tracks = plain.filter((line) => line.startsWith("node "));
      for (const track of tracks) expect(track.length).toBe(Math.max(columns, 37));
    }
  });

  test("has the idle times where no timeline was kept", () => {
    expect(lines(terminalFigure(RUN, undefined, { columns: 80, isColoured: true })).slice(2)).toEqual([
      "node 0  30.0 %",
      "node 1  36.7 %",
    ]);
  });
});
