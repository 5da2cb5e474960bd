/** @file The figure of idle time, what is read of a run's folder, and that drawings have text; oracle: a run made by hand. */
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createCanvas, GlobalFonts, loadImage } from "canvas";
import { afterAll, describe, expect, test } from "vitest";
import { idleFigure } from "../../src/plot/idle-figure.ts";
import { renderPng, renderSvg } from "../../src/plot/render.ts";
import { writeRunFigures } from "../../src/plot/run-figures.ts";
import { readRun } from "../../src/plot/run-record.ts";
import { DataError, UsageError } from "../../src/types/errors.ts";
import { MADE_SUMMARY, madeTimelines, writeMadeRun } from "../helpers/made-run.ts";

const root = mkdtempSync(join(tmpdir(), "ringtmp-plot-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));

const RUN = { summary: MADE_SUMMARY, gitCommit: undefined };

interface Panel {
  readonly width: number;
  readonly title?: unknown;
  readonly layer: readonly { readonly data: { readonly values: readonly Record<string, unknown>[] } }[];
}
const panelsOf = (runs: Parameters<typeof idleFigure>[0]): readonly Panel[] =>
  (idleFigure(runs) as unknown as { readonly concat: readonly Panel[] }).concat;
const valuesOf = (panel: Panel | undefined) => panel?.layer.map(({ data }) => data.values);

describe("the figure of idle time", () => {
  test("tells workers from servers, which have no dry run", () => {
    const perNode = MADE_SUMMARY.perNode.map((node, index) => ({ ...node, role: index === 0 ? "worker" : "server" }));
    const [panel] = panelsOf([
      { ...RUN, summary: { ...MADE_SUMMARY, system: "ps", idlePercentTheory: null, perNode } },
    ]);
    const [bars, theory, formula] = valuesOf(panel) ?? [];
    expect(bars?.map(({ node }) => node)).toEqual(["0 worker", "1 server"]);
    expect(theory).toEqual([]);
    expect(formula?.[0]?.["series"]).toBe("closed form: all wait for the slowest worker, messages take no time");
  });

  test("has a bar a node, and a line each for theory and formula", () => {
    const [panel, ...others] = panelsOf([RUN]);
    expect(others).toEqual([]);
    const [bars, theory, formula, numbers] = valuesOf(panel) ?? [];
    expect(bars).toEqual([
      { node: 0, idle: 30, series: "measured, each node", number: "30.0" },
      { node: 1, idle: 36.66, series: "measured, each node", number: "36.7" },
    ]);
    expect(theory).toEqual([{ idle: 32, series: "dry run of the schedule with the measured costs" }]);
    expect(formula).toEqual([{ idle: 100 / 3, series: "closed form, equal costs" }]);
    expect(numbers).toEqual(bars);
    expect(idleFigure([RUN]).title).toEqual({
      text: "gpipe, 2 nodes, 2 micro-batches: 33.3 % idle",
      subtitle: ["mlp:4-4-2 · engine wasm"],
    });
  });

  test("leaves out the formula where a schedule has none, and numbers where bars are narrow", () => {
    const perNode = Array.from({ length: 40 }, (_, node) => ({ node, idlePercentSteady: null }));
    const summary = { ...MADE_SUMMARY, idlePercentFormula: null, perNode };
    const figure = idleFigure([{ ...RUN, summary }]);
    expect(JSON.stringify(figure)).not.toContain("closed form");
    const [bars, , formula, numbers] = valuesOf(panelsOf([{ ...RUN, summary }])[0]) ?? [];
    expect(bars?.[39]).toMatchObject({ node: 39, idle: null, number: "?" });
    expect([formula, numbers]).toEqual([[], []]);
  });

  test("compares runs, a panel each, at most four a row, and names the least idle one", () => {
    const other = { ...MADE_SUMMARY, schedule: "interleaved", laps: 2, idlePercentSteady: 20 };
    const unknown = { ...MADE_SUMMARY, idlePercentSteady: null };
    const runs = [RUN, { ...RUN, summary: other }, RUN, { ...RUN, summary: unknown }, RUN];
    const figure = idleFigure(runs);
    expect(figure).toMatchObject({
      columns: 4,
      title: { text: "Least idle: interleaved, 2 laps, 2 nodes, 2 micro-batches: 20.0 %" },
    });
    const panels = panelsOf(runs);
    expect(panels.length).toBe(5);
    expect(panels[1]?.title).toMatchObject({
      text: "interleaved, 2 laps",
      subtitle: ["2 nodes, 2 micro-batches", "20.0 % idle"],
    });
    expect(4 * (panels[0]?.width ?? 0)).toBeLessThan(900);
  });
});

describe("a drawing", () => {
  /** Pixels that are not white. */
  async function inkOf(png: Uint8Array): Promise<number> {
    const image = await loadImage(png);
    const context = createCanvas(image.width, image.height).getContext("2d");
    context.drawImage(image, 0, 0);
    const { data } = context.getImageData(0, 0, image.width, image.height);
    let ink = 0;
    for (let at = 0; at < data.length; at += 4) if ((data[at] ?? 255) < 200) ink += 1;
    return ink;
  }
  const wordsOnly = (text: string) =>
    ({ data: { values: [{}] }, width: 200, height: 40, mark: "text", encoding: { text: { value: text } } }) as const;

  test("as PNG has text, in a font that does not hang on the machine", async () => {
    expect(GlobalFonts.has("Inter")).toBe(true);
    const [none, some] = [await renderPng(wordsOnly("")), await renderPng(wordsOnly("twelve letters"))];
    expect(await inkOf(none)).toBe(0);
    expect(await inkOf(some)).toBeGreaterThan(500);
    expect((await loadImage(some)).width).toBeGreaterThan(2 * 200);
  });

  test("as SVG has words, a font and an opaque ground", async () => {
    const svg = await renderSvg(idleFigure([RUN]));
    expect(svg).toMatch(/^<svg /);
    for (const part of ["33.3 % idle", "closed form", "Inter", 'fill="#ffffff"']) expect(svg).toContain(part);
    expect(Number(/width="([\d.]+)"/.exec(svg)?.[1])).toBeGreaterThan(850);
    expect(Number(/width="([\d.]+)"/.exec(svg)?.[1])).toBeLessThan(950);
  });
});

describe("a run's folder", () => {
  const made = (name: string, summary: object = MADE_SUMMARY): string => {
    const folder = join(root, name);
    writeMadeRun(folder, summary, madeTimelines(3));
    return folder;
  };

  test("is read, with the commit where it is known", () => {
    const folder = made("whole");
    expect(readRun(folder)).toMatchObject({ summary: MADE_SUMMARY, gitCommit: undefined });
    writeFileSync(join(folder, "environment.json"), '{"gitCommit":"abc","cpu":"any"}');
    expect(readRun(folder).gitCommit).toBe("abc");
    expect(readRun(folder).timelines).toEqual(madeTimelines(3));
  });

  test("is refused where it is none, is not finished, or is damaged: with the reason", () => {
    expect(() => readRun(root)).toThrow(/is not a run's folder$/);
    const unfinished = made("unfinished");
    rmSync(join(unfinished, "summary.json"));
    expect(() => readRun(unfinished)).toThrow(/has no summary.json: it has not ended$/);
    expect(() => readRun(made("negative", { ...MADE_SUMMARY, laps: 0 }))).toThrow(/summary.json is damaged: laps: /);
    const torn = made("torn");
    writeFileSync(join(torn, "timeline", "1.jsonl"), '{"kind":"F"}\n');
    expect(() => readRun(torn)).toThrow(/timeline\/1.jsonl is damaged: 0.step: /);
    expect(() => readRun(torn)).toThrow(DataError);
  });

  test("gets figures of its own; without a timeline that of idle time alone", async () => {
    const folder = made("drawn");
    const files = await writeRunFigures(folder, ["svg", "png"]);
    expect(files).toEqual(
      ["timeline.svg", "timeline.png", "idle.svg", "idle.png"].map((name) => join(folder, "figures", name)),
    );
    expect(readFileSync(join(folder, "figures", "timeline.svg"), "utf8")).toContain("ms since the start of step 1");
    rmSync(join(folder, "timeline"), { recursive: true });
    rmSync(join(folder, "figures"), { recursive: true });
    expect(await writeRunFigures(folder, ["svg"])).toEqual([join(folder, "figures", "idle.svg")]);
    expect(existsSync(join(folder, "figures", "timeline.svg"))).toBe(false);
    rmSync(join(folder, "figures"), { recursive: true });
    writeFileSync(join(folder, "figures"), "in the way");
    await expect(writeRunFigures(folder, ["svg"])).rejects.toThrow(UsageError);
  });
});
