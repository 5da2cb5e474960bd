/**
 * @file One step of every node as lines of text: a line a node, a character a moment. Pure; whether there are colours, and how
 * wide a line may be, the caller knows.
 */
import { KIND_NAMES, percentText, runDetail, runTitle, timeUnit } from "./caption.ts";
import type { RunRecord } from "./run-record.ts";
import { BAR_KINDS, type Bar, type BarKind, type StepWindow } from "./step-window.ts";

export interface TerminalInit {
  /** Characters a line. */
  readonly columns: number;
  readonly isColoured: boolean;
}

/** The small letter where a node computed for less than half of the moment. */
const LETTERS: Readonly<Record<BarKind, string>> = { F: "F", B: "B", W: "W", update: "U", recover: "R" };
/** Of the 256 that terminals number. */
const COLOURS: Readonly<Record<BarKind, number>> = { F: 32, B: 214, W: 36, update: 175, recover: 166 };
const RESET = "\u001b[0m";
const TRACK_MIN = 20;
/** A node's idle time, right of its track. */
const IDLE_WIDTH = " 100.0 %".length;

/** @param window undefined where no timeline was kept: idle times only */
export function terminalFigure(
  run: Pick<RunRecord, "summary" | "gitCommit">,
  window: StepWindow | undefined,
  init: TerminalInit,
): string {
  const { summary } = run;
  const nameWidth = Math.max(...summary.perNode.map(({ node }) => `node ${node}`.length));
  const width = Math.max(TRACK_MIN, init.columns - nameWidth - " ||".length - IDLE_WIDTH);
  const rows = summary.perNode.map(({ node, idlePercentSteady }) => {
    const track = window === undefined ? "" : ` |${trackOf(node, window, width, init.isColoured)}|`;
    return `${`node ${node}`.padEnd(nameWidth)}${track}${percentText(idlePercentSteady).padStart(IDLE_WIDTH)}`;
  });
  const head = [runTitle(summary), runDetail(run)].map((line) => line.slice(0, init.columns));
  if (window === undefined) return [...head, ...rows].join("\n");
  const scale = `step ${window.step}: ${window.length.toFixed(1)} ${timeUnit(summary)}`;
  return [...head, scale, ...rows, legendOf(window.bars, init.isColoured)].join("\n");
}

interface Moment {
  /** What took most of it. */
  readonly kind: BarKind;
  /** At least half of it was computing. */
  readonly isBusy: boolean;
}

/** Undefined where nothing was computed from `from` to `to`. */
function momentOf(bars: readonly Bar[], from: number, to: number): Moment | undefined {
  let computing = 0;
  let longest = { kind: undefined as BarKind | undefined, share: 0 };
  for (const { kind, start, end } of bars) {
    const share = Math.max(0, Math.min(end, to) - Math.max(start, from));
    computing += share;
    if (share > longest.share) longest = { kind, share };
  }
  return longest.kind === undefined ? undefined : { kind: longest.kind, isBusy: 2 * computing >= to - from };
}

function trackOf(node: number, { bars: all, length }: StepWindow, width: number, isColoured: boolean): string {
  const bars = all.filter((bar) => bar.node === node);
  const character = isColoured ? blockOf : letterOf;
  const edges = Array.from({ length: width + 1 }, (_, index) => (index * length) / width);
  return edges
    .slice(1)
    .map((to, index) => character(bars, edges[index] ?? 0, to))
    .join("");
}

function letterOf(bars: readonly Bar[], from: number, to: number): string {
  const moment = momentOf(bars, from, to);
  if (moment === undefined) return ".";
  return moment.isBusy ? LETTERS[moment.kind] : LETTERS[moment.kind].toLowerCase();
}

/** Its halves have a colour each; a thin line where neither is busy and yet something was computed. */
function blockOf(bars: readonly Bar[], from: number, to: number): string {
  const middle = (from + to) / 2;
  const [left, right] = [momentOf(bars, from, middle), momentOf(bars, middle, to)];
  if (left?.isBusy && right?.isBusy) return `\u001b[38;5;${COLOURS[left.kind]};48;5;${COLOURS[right.kind]}m▌${RESET}`;
  if (left?.isBusy) return coloured(left.kind, "▌");
  if (right?.isBusy) return coloured(right.kind, "▐");
  const whole = momentOf(bars, from, to);
  return whole === undefined ? " " : coloured(whole.kind, "▏");
}

const coloured = (kind: BarKind, character: string): string => `\u001b[38;5;${COLOURS[kind]}m${character}${RESET}`;

function legendOf(bars: readonly Bar[], isColoured: boolean): string {
  const kinds = BAR_KINDS.filter((kind) => bars.some((bar) => bar.kind === kind));
  const signs = kinds.map((kind) => `${isColoured ? coloured(kind, "█") : LETTERS[kind]} ${KIND_NAMES[kind]}`);
  return [...signs, ...(isColoured ? [] : ["small: under half"])].join("  ");
}
