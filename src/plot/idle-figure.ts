/**
 * @file How idle each node of one or several runs was, in steady state, as a Vega-Lite figure: a panel a run, a bar a node,
 * and across each panel the theory that the run is held against. Pure.
 */
import type { TopLevelSpec } from "vega-lite";
import { percentText, runDetail, runTitle, scheduleText, sizeText } from "./caption.ts";
import type { RunRecord, RunSummary } from "./run-record.ts";

type Run = Pick<RunRecord, "summary" | "gitCommit">;

/** The whole figure's, in pixels, and what of it is no panel. */
const WIDTH = 900;
const MARGIN_WIDTH = 80;
const PANEL_HEIGHT = 240;
const PANEL_GAP = 24;
const PANELS_A_ROW_MAX = 4;
/** A narrower bar's number would run into the next one's. */
const NUMBERED_BAR_WIDTH = 36;
/** Room above the highest value. */
const HEADROOM = 1.08;
const SUBTITLES_MAX = 4;

const MEASURED = "measured, each node";
const THEORY = "dry run of the schedule with the measured costs";
const FORMULA = "closed form, equal costs";
/** Of a parameter server. */
const LOCKSTEP = "closed form: all wait for the slowest worker, messages take no time";
const COLOURS: Readonly<Record<string, string>> = {
  [MEASURED]: "#56b4e9",
  [THEORY]: "#000000",
  [FORMULA]: "#d55e00",
  [LOCKSTEP]: "#d55e00",
};

/** What the panels of a figure share. */
interface Frame {
  readonly width: number;
  /** Percent at the upper end of the axes. */
  readonly top: number;
  readonly series: readonly string[];
}

/** @param runs at least one, in the order of the panels */
export function idleFigure(runs: readonly Run[]): TopLevelSpec {
  const columns = Math.min(runs.length, PANELS_A_ROW_MAX);
  const width = Math.floor((WIDTH - MARGIN_WIDTH - (columns - 1) * PANEL_GAP) / columns);
  const highest = Math.max(5, ...runs.flatMap(({ summary }) => shownPercents(summary)));
  const summaries = runs.map(({ summary }) => summary);
  const hasTheory = summaries.some(({ idlePercentTheory }) => idlePercentTheory !== null);
  const formulas = summaries.filter(({ idlePercentFormula }) => idlePercentFormula !== null).map(formulaOf);
  const series = [MEASURED, ...(hasTheory ? [THEORY] : []), ...new Set(formulas)];
  const frame = { width, series, top: Math.min(100, highest * HEADROOM) };
  return {
    title: titleOf(runs),
    concat: runs.map(({ summary }, index) => ({
      ...(runs.length > 1 ? { title: panelTitle(summary) } : {}),
      ...panel(summary, frame, index % columns === 0),
    })),
    ...{ columns, spacing: PANEL_GAP },
  };
}

const formulaOf = ({ system }: RunSummary): string => (system === "ps" ? LOCKSTEP : FORMULA);

function shownPercents({ perNode, idlePercentTheory, idlePercentFormula }: RunSummary): readonly number[] {
  const all = [...perNode.map((node) => node.idlePercentSteady), idlePercentTheory, idlePercentFormula];
  return all.filter((value) => value !== null);
}

function titleOf(runs: readonly Run[]) {
  const subtitle = [...new Set(runs.map(runDetail))].slice(0, SUBTITLES_MAX);
  const summaries = runs.map(({ summary }) => summary);
  const idleOf = ({ idlePercentSteady }: RunSummary): number => idlePercentSteady ?? Infinity;
  const least = summaries.reduce((best, summary) => (idleOf(summary) < idleOf(best) ? summary : best));
  const text = runs.length === 1 ? runTitle(least) : `Least idle: ${runTitle(least).replace(/ idle$/, "")}`;
  return { text, subtitle };
}

const panelTitle = (summary: RunSummary) => ({
  text: scheduleText(summary),
  subtitle: [sizeText(summary), `${percentText(summary.idlePercentSteady)} idle`],
  ...{ fontSize: 14, offset: 10 },
});

function panel(summary: RunSummary, { width, top, series }: Frame, hasAxis: boolean) {
  const { idlePercentTheory, idlePercentFormula } = summary;
  const bars = summary.perNode.map(({ node, role, idlePercentSteady: idle }) => ({
    // Workers and servers do not do the same.
    node: summary.system === "ps" && role !== undefined ? `${node} ${role}` : node,
    ...{ idle, series: MEASURED, number: idle === null ? "?" : idle.toFixed(1) },
  }));
  const line = (idle: number | null, name: string, strokeDash: number[]) => ({
    data: { values: idle === null ? [] : [{ idle, series: name }] },
    mark: { type: "rule" as const, aria: false, strokeWidth: 2, strokeDash },
    encoding: { y: percent, color: colour },
  });
  const percent = {
    ...{ field: "idle", title: "% idle, steady state" },
    type: "quantitative" as const,
    scale: { domain: [0, top], nice: false },
    axis: { tickCount: 6, ...(hasAxis ? {} : { labels: false, title: null }) },
  };
  const node = {
    ...{ field: "node", type: "ordinal" as const },
    ...{ sort: null, axis: { labelAngle: 0, labelOverlap: "parity" as const, grid: false } },
  };
  const colour = {
    ...{ field: "series", type: "nominal" as const },
    scale: { domain: [...series], range: series.map((name) => COLOURS[name] ?? "") },
  };
  const isNumbered = width / bars.length >= NUMBERED_BAR_WIDTH;
  return {
    ...{ width, height: PANEL_HEIGHT },
    layer: [
      {
        data: { values: bars },
        mark: { type: "bar" as const, aria: false, width: { band: 0.72 } },
        encoding: { x: node, y: percent, color: colour },
      },
      line(idlePercentTheory, THEORY, [1, 0]),
      line(idlePercentFormula, formulaOf(summary), [6, 4]),
      {
        // At the bars' feet, where no line is: a number on top would stand in the way of one.
        data: { values: isNumbered ? bars : [] },
        mark: { type: "text" as const, aria: false, baseline: "bottom" as const, dy: -4, fontSize: 11 },
        encoding: { x: node, y: { datum: 0 }, text: { field: "number" } },
      },
    ],
  };
}
