/**
 * @file One step of every node as a Vega-Lite figure: a row a node, a bar an operation, grey where it computes nothing.
 * Pure. Colours are those of Okabe and Ito, which the colour-blind tell apart.
 */
import type { TopLevelSpec } from "vega-lite";
import { KIND_NAMES, plural, runDetail, runTitle, timeUnit } from "./caption.ts";
import type { RunRecord } from "./run-record.ts";
import { BAR_KINDS, type Bar, type BarKind, type StepWindow } from "./step-window.ts";

/** The whole figure's, in pixels. */
const WIDTH = 900;
/** About what is left for the time axis, beside the nodes' names and their idle time. */
const PLOT_WIDTH = 755;
const DIGIT_WIDTH = 7;
const GAP_WIDTH = 2;
/** Narrower bars are drawn without a gap to the next one, or little of them would be left. */
const GAPPED_WIDTH = 4;
/** Narrower bars are drawn as wide as this, or they would vanish. */
const WIDTH_MIN = 1.5;

const COLOURS: Readonly<Record<BarKind, string>> = {
  F: "#0072b2",
  B: "#e69f00",
  W: "#009e73",
  update: "#cc79a7",
  recover: "#d55e00",
};
const NOT_COMPUTING = "idle, messages, run queue";
const NOT_COMPUTING_COLOUR = "#e6e9ed";
/** How far the last lap's colour is from the first one's towards white, and a neighbouring step's from its own. */
const LAST_LAP_PALENESS = 0.5;
const NEIGHBOUR_PALENESS = 0.72;

function paler(colour: string, share: number): string {
  const mixed = [1, 3, 5].map((at) => {
    const part = Number.parseInt(colour.slice(at, at + 2), 16);
    return Math.round(part + (255 - part) * share)
      .toString(16)
      .padStart(2, "0");
  });
  return `#${mixed.join("")}`;
}

function rowHeight(nodes: number): number {
  if (nodes <= 4) return 46;
  return nodes <= 8 ? 36 : 26;
}

/** What a colour stands for, as the legend has it. */
function seriesOf({ kind, lap, isNeighbour }: Pick<Bar, "kind" | "lap" | "isNeighbour">, laps: number): string {
  const name = laps > 1 && kind.length === 1 ? `${KIND_NAMES[kind]}, lap ${lap}` : KIND_NAMES[kind];
  return isNeighbour ? `${name}, other step` : name;
}

function colourOf({ kind, lap, isNeighbour }: Bar, laps: number): string {
  const colour = paler(COLOURS[kind], laps > 1 && kind.length === 1 ? (LAST_LAP_PALENESS * lap) / (laps - 1) : 0);
  return isNeighbour ? paler(colour, NEIGHBOUR_PALENESS) : colour;
}

/** Every series that is drawn, in the order of a micro-batch's way, with its colour. */
function legendOf(bars: readonly Bar[], laps: number) {
  const colours = new Map<string, string>();
  const ordered = bars.toSorted((a, b) => BAR_KINDS.indexOf(a.kind) - BAR_KINDS.indexOf(b.kind) || a.lap - b.lap);
  for (const bar of ordered) colours.set(seriesOf(bar, laps), colourOf(bar, laps));
  const own = ordered.filter((bar) => !bar.isNeighbour).map((bar) => seriesOf(bar, laps));
  return {
    domain: [...colours.keys(), NOT_COMPUTING],
    range: [...colours.values(), NOT_COMPUTING_COLOUR],
    values: [...new Set(own), NOT_COMPUTING],
  };
}

/** White where it can be read better than black on a colour as `#rrggbb`. */
function inkOn(colour: string): string {
  const [red = 0, green = 0, blue = 0] = [1, 3, 5].map((at) => Number.parseInt(colour.slice(at, at + 2), 16));
  return 0.299 * red + 0.587 * green + 0.114 * blue < 128 ? "#ffffff" : "#111111";
}

/** A node's name, with what it does where nodes differ in that: in a parameter server. */
function rowOf(node: number, perNode: RunRecord["summary"]["perNode"]): string {
  const role = perNode.find((one) => one.node === node)?.role ?? "";
  return /worker|server/.test(role) ? `node ${node}, ${role}` : `node ${node}`;
}

/** A micro-batch's number stands in its bar where there is room for it. */
function drawn(bar: Bar, window: StepWindow, { laps, perNode }: RunRecord["summary"]) {
  const width = ((bar.end - bar.start) / window.length) * PLOT_WIDTH;
  const number = String(bar.microBatch);
  const hasNumber = bar.kind.length === 1 && !bar.isNeighbour && width >= number.length * DIGIT_WIDTH + GAP_WIDTH;
  return {
    ...{ row: rowOf(bar.node, perNode), series: seriesOf(bar, laps) },
    ...{ start: bar.start, end: Math.max(bar.end, bar.start + (WIDTH_MIN / PLOT_WIDTH) * window.length) },
    ...{ middle: (bar.start + bar.end) / 2, number: hasNumber ? number : "", ink: inkOn(colourOf(bar, laps)) },
    gap: width >= GAPPED_WIDTH ? 1 : 0,
  };
}

export function timelineFigure(run: Pick<RunRecord, "summary" | "gitCommit">, window: StepWindow): TopLevelSpec {
  const { summary } = run;
  const { laps, perNode } = summary;
  const bars = window.bars.map((bar) => drawn(bar, window, summary));
  const tracks = window.nodes.map((node) => ({
    ...{ row: rowOf(node, perNode), start: 0, end: window.length },
    idle: idleText(perNode.find((one) => one.node === node)?.idlePercentSteady),
  }));
  const elsewhere = summary.nodes - window.nodes.length;
  const missing = elsewhere > 0 ? ` · without the timelines of ${plural(elsewhere, "node")}` : "";
  const paleNote = window.bars.some((bar) => bar.isNeighbour) ? "; paler: other steps" : "";
  const row = { field: "row", type: "nominal", sort: tracks.map((track) => track.row), title: null } as const;
  const rowScale = { paddingInner: 0.24, paddingOuter: 0.12 };
  const timeRange: number[] = [0, window.length];
  const time = {
    field: "start",
    type: "quantitative",
    scale: { domain: timeRange, nice: false },
    title: `${timeUnit(summary)} since the start of step ${window.step}${paleNote}`,
    axis: { tickCount: 8, labelFlush: false },
  } as const;
  const { domain, range, values } = legendOf(window.bars, laps);
  return {
    width: WIDTH,
    height: rowHeight(window.nodes.length) * window.nodes.length,
    autosize: { type: "fit-x", contains: "padding" },
    title: { text: runTitle(summary), subtitle: `${runDetail(run)}${missing}` },
    encoding: { y: { ...row, scale: rowScale } },
    layer: [
      {
        data: { values: tracks },
        mark: { type: "rect", color: NOT_COMPUTING_COLOUR, aria: false },
        encoding: { x: time, x2: { field: "end" } },
      },
      {
        data: { values: bars },
        mark: { type: "rect", aria: false, stroke: NOT_COMPUTING_COLOUR },
        encoding: {
          ...{ x: time, x2: { field: "end" } },
          strokeWidth: { field: "gap", type: "quantitative", scale: null },
          color: {
            field: "series",
            type: "nominal",
            scale: { domain, range },
            legend: { values, columns: laps > 1 ? 4 : values.length },
          },
        },
      },
      {
        data: { values: bars.filter(({ number }) => number !== "") },
        mark: { type: "text", aria: false, fontSize: 11, fontWeight: 600 },
        encoding: {
          ...{ x: { ...time, field: "middle" }, text: { field: "number" } },
          color: { field: "ink", type: "nominal", scale: null },
        },
      },
      {
        data: { values: tracks },
        mark: { type: "text", aria: false, align: "left", dx: 8, fontSize: 12, clip: false },
        encoding: { x: { ...time, field: "end" }, text: { field: "idle" } },
      },
    ],
  };
}

const idleText = (percent: number | null | undefined): string =>
  percent === null || percent === undefined ? "" : `${percent.toFixed(0)} % idle`;
