/** @file A run's folder: what is replaced and what is never touched, torn lines, timelines, the trace. */
import {
  appendFileSync,
  chmodSync,
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readdirSync,
  rmSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { Recorder } from "../../src/metrics/recorder.ts";
import { RUN_FILES, RunFolder } from "../../src/metrics/run-folder.ts";
import { chromeTrace, Timeline, type TimelineEntry } from "../../src/metrics/timeline.ts";
import { AssertionFailed } from "../../src/types/assert.ts";
import { DataError, UsageError } from "../../src/types/errors.ts";

let root: string;
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "ringtmp-folder-"));
});
afterEach(() => {
  chmodSync(root, 0o700);
  rmSync(root, { recursive: true, force: true });
});

const refusal = (work: () => unknown): string => {
  try {
    work();
  } catch (error) {
    if (error instanceof UsageError || error instanceof DataError) return `${error.name}: ${error.message}`;
    throw error;
  }
  throw new Error("it was not refused");
};

describe("creating", () => {
  test("makes what is not there, parents too, and takes an empty folder", () => {
    const folder = RunFolder.create(join(root, "a", "b"), false);
    expect(readdirSync(folder.path).toSorted()).toEqual(["checkpoints", "logs", "timeline"]);
    mkdirSync(join(root, "empty"));
    expect(existsSync(RunFolder.create(join(root, "empty"), false).file("logs"))).toBe(true);
  });

  test("replaces another run with force only, and of it only what a run writes", () => {
    const path = join(root, "run");
    const folder = RunFolder.create(path, false);
    for (const name of Object.values(RUN_FILES)) folder.writeJson(name, {});
    writeFileSync(folder.file("logs", "node-0.log"), "x");
    mkdirSync(folder.file("checkpoints", "5"));
    writeFileSync(folder.file("notes.txt"), "mine");
    expect(refusal(() => RunFolder.create(path, false))).toMatch(/^UsageError: --out .*run holds another run$/);
    expect(existsSync(folder.file(RUN_FILES.summary))).toBe(true);
    RunFolder.create(path, true);
    expect(readdirSync(path).toSorted()).toEqual(["checkpoints", "logs", "notes.txt", "timeline"]);
    expect(readdirSync(folder.file("checkpoints"))).toEqual([]);
    expect(readdirSync(folder.file("logs"))).toEqual([]);
  });

  test.each([true, false])("never touches what is not a run (force %s)", (force) => {
    writeFileSync(join(root, "thesis.tex"), "years of work");
    mkdirSync(join(root, "checkpoints"));
    writeFileSync(join(root, "checkpoints", "mine"), "x");
    expect(refusal(() => RunFolder.create(root, force))).toMatch(/holds something that is not a run$/);
    expect(readFileSync(join(root, "thesis.tex"), "utf8")).toBe("years of work");
    expect(readFileSync(join(root, "checkpoints", "mine"), "utf8")).toBe("x");
  });

  test.each([true, false])("refuses a file in its place, and leaves it (force %s)", (force) => {
    const path = join(root, "file");
    writeFileSync(path, "x");
    expect(refusal(() => RunFolder.create(path, force))).toMatch(/^UsageError: --out .*file/);
    expect(readFileSync(path, "utf8")).toBe("x");
  });
});

describe("files", () => {
  test("are replaced whole: no reader sees a part, nothing is left beside", () => {
    const folder = RunFolder.create(join(root, "run"), false);
    folder.writeJson(RUN_FILES.config, { loss: 0.1 + 0.2 });
    folder.writeJson(RUN_FILES.config, { loss: 0.1 + 0.2, seed: Number.MAX_SAFE_INTEGER });
    expect(folder.readJson(RUN_FILES.config)).toEqual({ loss: 0.30000000000000004, seed: Number.MAX_SAFE_INTEGER });
    expect(readdirSync(folder.path).filter((name) => name.includes("tmp"))).toEqual([]);
  });

  test("that are missing, torn or no JSON are data errors", () => {
    const folder = RunFolder.create(join(root, "run"), false);
    expect(refusal(() => folder.readJson(RUN_FILES.config))).toMatch(/^DataError: .*config.json cannot be read$/);
    writeFileSync(folder.file(RUN_FILES.config), '{"nodes":');
    expect(refusal(() => folder.readJson(RUN_FILES.config))).toMatch(/^DataError: .*config.json is not JSON$/);
  });
});

describe("metrics", () => {
  const line = (step: number) => ({ step, loss: 1 / (step + 1), samples: 4 * (step + 1), elapsedMs: step, view: 0 });
  const withMetrics = (text: string): RunFolder => {
    const folder = RunFolder.create(join(root, "run"), false);
    writeFileSync(folder.file(RUN_FILES.metrics), text);
    return folder;
  };
  const text = (steps: readonly number[]): string => steps.map((step) => `${JSON.stringify(line(step))}\n`).join("");

  test("a torn last line is left out when reading, and cut when going on", () => {
    const folder = withMetrics(`${text([0, 1, 2])}{"step":3,"lo`);
    expect(folder.readLines(RUN_FILES.metrics)).toEqual([line(0), line(1), line(2)]);
    expect(folder.cutMetrics(3)).toEqual([line(0), line(1), line(2)]);
    folder.appendLines(RUN_FILES.metrics, [line(3)]);
    expect(readFileSync(folder.file(RUN_FILES.metrics), "utf8")).toBe(text([0, 1, 2, 3]));
  });

  test("going on from a checkpoint drops the steps behind it", () => {
    const folder = withMetrics(text([0, 1, 2, 3, 4]));
    expect(folder.cutMetrics(2)).toEqual([line(0), line(1)]);
    expect(readFileSync(folder.file(RUN_FILES.metrics), "utf8")).toBe(text([0, 1]));
    expect(folder.cutMetrics(0)).toEqual([]);
    expect(folder.readLines(RUN_FILES.metrics)).toEqual([]);
  });

  test("steps that two processes wrote are read once each, as they were written first", () => {
    const folder = withMetrics(text([0, 1, 2, 3, 1, 2, 4, 3, 5]));
    folder.appendLines(RUN_FILES.metrics, [{ ...line(2), view: 7 }]);
    expect(folder.readMetrics()).toEqual([0, 1, 2, 3, 4, 5].map(line));
    expect(folder.cutMetrics(5)).toEqual([0, 1, 2, 3, 4].map(line));
    expect(readFileSync(folder.file(RUN_FILES.metrics), "utf8")).toBe(text([0, 1, 2, 3, 4]));
  });

  test.each([
    ["nothing", "", 0],
    ["half a line", '{"step":0,"lo', 0],
    ["whole lines", text([0, 1, 2]), 3],
    ["a torn one", `${text([0, 1, 2])}{"step":3,"lo`, 3],
    ["a tail of nothing, as a loss of power leaves it", `${text([0, 1])}${"\0".repeat(5000)}`, 2],
    ["a damaged one", `${text([0, 1])}###\n`, 2],
    ["nothing but damage", "###\n", 0],
    ["one written twice", text([0, 1, 2, 1, 2]), 3],
  ])("the next step of a file with %s", (_, content, step) => {
    const folder = withMetrics(content);
    expect(folder.nextStep()).toBe(step);
    expect(readFileSync(folder.file(RUN_FILES.metrics), "utf8")).toBe(content.slice(0, content.lastIndexOf("\n") + 1));
  });

  test("the next step stands at the end: a file of any length is not read for it", () => {
    const folder = withMetrics("");
    const file = openSync(folder.file(RUN_FILES.metrics), "r+");
    // More than a buffer takes, and next to nothing on the disk.
    writeSync(file, `\n${text([41])}{"st`, 3 * 2 ** 30);
    closeSync(file);
    expect(folder.nextStep()).toBe(42);
  });

  test.each([
    ["a step is missing", [0, 2], 3],
    ["the first is", [1, 2], 3],
    ["too few are there", [0, 1], 3],
    ["one stands twice", [0, 1, 1], 3],
    ["they are out of order", [1, 0], 2],
  ])("a file that is not whole is a data error, and stays as it is: %s", (_, steps, step) => {
    const folder = withMetrics(text(steps));
    expect(refusal(() => folder.cutMetrics(step))).toMatch(
      new RegExp(`^DataError: .*metrics.jsonl does not hold steps 0 to ${step - 1}$`),
    );
    expect(readFileSync(folder.file(RUN_FILES.metrics), "utf8")).toBe(text(steps));
  });

  test("lines that are not there are none", () => {
    expect(RunFolder.create(join(root, "run"), false).readLines(RUN_FILES.events)).toEqual([]);
  });
});

describe("a recorder", () => {
  const init = (earlierLosses: readonly number[] = []) => ({
    folder: RunFolder.create(join(root, "run"), true),
    ...{ batch: 4, earlier: earlierLosses.map((loss, step) => lineOf(step, loss)), startedMs: 1_000 },
  });
  const lineOf = (step: number, loss: number) => ({ step, loss, samples: 4 * (step + 1), elapsedMs: step, view: 0 });
  const written = (options: ReturnType<typeof init>) => options.folder.readLines(RUN_FILES.metrics);

  test("writes a line a step, with what was sampled so far; others only remember", () => {
    const options = init();
    const recorder = new Recorder(options);
    recorder.write(true);
    recorder.committed(0, 0.1 + 0.2, 1_002.34567);
    recorder.committed(1, 0.25, 1_003);
    recorder.event("checkpoint", 5, { step: 2 });
    expect(written(options)).toEqual([
      { step: 0, loss: 0.30000000000000004, samples: 4, elapsedMs: 2.346, view: 0 },
      { step: 1, loss: 0.25, samples: 8, elapsedMs: 3, view: 0 },
    ]);
    expect(options.folder.readLines(RUN_FILES.events)).toEqual([{ kind: "checkpoint", timeMs: 5, step: 2 }]);
    rmSync(options.folder.path, { recursive: true });
    const silent = init();
    const other = new Recorder(silent);
    other.committed(0, 0.5, 1_001);
    other.event("checkpoint", 5);
    expect(other.losses).toEqual([0.5]);
    expect(readdirSync(silent.folder.path).filter((name) => name.endsWith("jsonl"))).toEqual([]);
  });

  test("takes the steps once each and in order, behind those of a resumed run", () => {
    const recorder = new Recorder(init([3, 2]));
    expect(() => recorder.committed(1, 1, 0)).toThrow(AssertionFailed);
    expect(() => recorder.committed(3, 1, 0)).toThrow(AssertionFailed);
    recorder.committed(2, 1, 0);
    expect(recorder.losses).toEqual([3, 2, 1]);
  });

  test.each([
    ["behind", 1, ""],
    ["torn", 2, '{"step":1,"lo'],
    ["further", 3, ""],
  ])("that takes over a file that is %s goes on behind its last whole line", (_, steps, torn) => {
    const options = init();
    options.folder.appendLines(
      RUN_FILES.metrics,
      [3, 2, 1].slice(0, steps).map((loss, step) => lineOf(step, loss)),
    );
    appendFileSync(options.folder.file(RUN_FILES.metrics), torn);
    const recorder = new Recorder(options);
    recorder.committed(0, 3, 1_000);
    recorder.committed(1, 2, 1_001);
    recorder.write(true);
    recorder.committed(2, 1, 1_002);
    recorder.committed(3, 0.5, 1_003);
    expect(written(options)).toMatchObject([3, 2, 1, 0.5].map((loss, step) => ({ step, loss })));
    recorder.write(false);
    recorder.committed(4, 0.25, 1_004);
    expect(written(options)).toHaveLength(4);
  });

  test("that was stopped while another process wrote adds what the file lacks, and no step twice", () => {
    const options = init();
    const [stopped, other] = [new Recorder(options), new Recorder(options)];
    stopped.write(true);
    for (const step of [0, 1]) stopped.committed(step, 3 - step, 1_000);
    for (const step of [0, 1, 2]) other.committed(step, 3 - step, 1_000);
    other.write(true);
    other.committed(3, 0, 1_001);
    for (const step of [2, 3, 4]) stopped.committed(step, 3 - step, 1_002);
    for (const step of [4, 5]) other.committed(step, 3 - step, 1_003);
    expect(written(options)).toMatchObject([0, 1, 2, 3, 4, 5].map((step) => ({ step, loss: 3 - step })));
  });

  test("that takes over a file with steps that stand there twice goes on behind the last step", () => {
    const options = init([3, 2, 1]);
    const { folder, earlier } = options;
    folder.appendLines(RUN_FILES.metrics, [...earlier, ...earlier.slice(1)]);
    const recorder = new Recorder({ ...options, earlier: folder.readMetrics() });
    recorder.write(true);
    recorder.committed(3, 0.5, 1_003);
    expect(recorder.losses).toEqual([3, 2, 1, 0.5]);
    expect(folder.readMetrics()).toMatchObject([3, 2, 1, 0.5].map((loss, step) => ({ step, loss })));
  });

  test("puts a file right at the end that another writer has filled as well", () => {
    const options = init();
    const recorder = new Recorder(options);
    recorder.committed(0, 3, 1_000);
    options.folder.appendLines(RUN_FILES.metrics, [lineOf(0, 3), lineOf(0, 3)]);
    recorder.finish();
    expect(written(options), "who does not write touches nothing").toHaveLength(2);
    recorder.write(true);
    recorder.finish();
    expect(written(options)).toMatchObject([{ step: 0, loss: 3 }]);
  });
});

describe("a timeline", () => {
  const written = (keptSteps: number, steps: number): number[] => {
    const folder = RunFolder.create(join(root, "run"), false);
    const timeline = new Timeline(folder, () => 2, keptSteps);
    for (let step = 0; step < steps; step += 1) {
      timeline.add({ kind: "F", step, lap: 0, microBatch: 0, startMs: 10 * step, endMs: 10 * step + 5, bytes: 0 });
      timeline.add({
        kind: "send",
        step,
        lap: 0,
        microBatch: 0,
        startMs: 10 * step + 5,
        endMs: 10 * step + 6,
        bytes: 64,
      });
    }
    timeline.flush();
    timeline.flush();
    const entries = folder.readLines("timeline/2.jsonl") as readonly TimelineEntry[];
    expect(entries.filter((entry) => entry.kind === "send").length).toBe(entries.length / 2);
    return entries.filter((entry) => entry.kind === "F").map((entry) => entry.step);
  };

  test("keeps the last steps, all, or none", () => {
    expect(written(2, 5)).toEqual([3, 4]);
  });
  test("keeps all of them where that is wished, as the run goes on", () => {
    expect(written(Infinity, 4)).toEqual([0, 1, 2, 3]);
  });
  test("keeps none", () => {
    expect(written(0, 4)).toEqual([]);
  });

  test("goes on behind the half line of a process that was killed", () => {
    const folder = RunFolder.create(join(root, "run"), false);
    writeFileSync(folder.file("timeline", "2.jsonl"), '{"kind":"F","step":0}\n{"kind":"F","st');
    const timeline = new Timeline(folder, () => 2, Infinity);
    for (const step of [1, 2]) {
      timeline.add({ kind: "F", step, lap: 0, microBatch: 0, startMs: 0, endMs: 5, bytes: 0 });
      timeline.flush();
    }
    const entries = folder.readLines("timeline/2.jsonl") as readonly TimelineEntry[];
    expect(entries.map(({ step }) => step)).toEqual([0, 1, 2]);
  });

  test("counts a step once, though a message of the next one comes before its end", () => {
    const folder = RunFolder.create(join(root, "run"), false);
    const timeline = new Timeline(folder, () => 0, 2);
    for (let step = 0; step < 4; step += 1) {
      timeline.add({ kind: "F", step, lap: 0, microBatch: 0, startMs: 10 * step, endMs: 10 * step + 5, bytes: 0 });
      timeline.add({
        kind: "receive",
        step: step + 1,
        lap: 0,
        microBatch: 0,
        startMs: 10 * step + 6,
        endMs: 10 * step + 6,
        bytes: 64,
      });
      timeline.add({
        kind: "update",
        step,
        lap: 0,
        microBatch: 0,
        startMs: 10 * step + 7,
        endMs: 10 * step + 8,
        bytes: 0,
      });
    }
    timeline.flush();
    const entries = folder.readLines("timeline/0.jsonl") as readonly TimelineEntry[];
    const kept = entries.map(({ kind, step }) => `${kind} ${step}`);
    expect(kept).toEqual(["receive 3", "F 3", "update 3", "receive 4"]);
  });

  test("becomes a trace: microseconds from its own beginning, a row for compute and one for messages", () => {
    const entry = (kind: TimelineEntry["kind"], startMs: number, endMs: number): TimelineEntry => ({
      ...{ kind, startMs, endMs },
      ...{ step: 1, lap: 0, microBatch: 2, bytes: 8 },
    });
    const trace = chromeTrace(
      [
        { node: 0, entries: [entry("F", 5, 7)] },
        { node: 1, entries: [entry("send", 4, 4.5), entry("update", 6, 9), { ...entry("B", 9, 10), lap: 2 }] },
      ],
      4,
    ) as { traceEvents: Record<string, unknown>[] };
    expect(trace.traceEvents.filter((event) => event["ph"] === "X")).toMatchObject([
      { name: "0F2", pid: 0, tid: 0, ts: 1_000, dur: 2_000 },
      { name: "1send2", pid: 1, tid: 1, ts: 0, dur: 500 },
      { name: "update", pid: 1, tid: 0, ts: 2_000, dur: 3_000 },
      { name: "9B2", pid: 1, tid: 0, args: { step: 1, lap: 2, microBatch: 2 } },
    ]);
  });

  test("of a long run becomes a trace too", () => {
    const one = { kind: "F", step: 0, lap: 0, microBatch: 0, startMs: 3, endMs: 4, bytes: 0 } as const;
    const entries = Array.from({ length: 300_000 }, () => one);
    const { traceEvents } = chromeTrace([{ node: 0, entries }], 1) as { traceEvents: unknown[] };
    expect(traceEvents.length).toBe(300_001);
  });
});
