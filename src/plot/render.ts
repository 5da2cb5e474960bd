/**
 * @file A Vega-Lite figure becomes SVG text or PNG bytes, without a browser. The font is a package of the project:
 * without one that the canvas knows, all text vanishes silently.
 * Limits: SVG names the font and does not carry it; a viewer without it shows its own sans-serif.
 */
import { fileURLToPath } from "node:url";
import { type Canvas, GlobalFonts } from "canvas";
import { parse, View } from "vega";
import { compile, type TopLevelSpec } from "vega-lite";
import { assert } from "../types/assert.ts";

/** The family of `FONT_FILES`, and what a viewer of an SVG takes where it has none. */
const FONT_FAMILY = "Inter, Helvetica, Arial, sans-serif";
const FONT_FILES = [
  import.meta.resolve("@fontsource/inter/files/inter-latin-400-normal.woff2"),
  import.meta.resolve("@fontsource/inter/files/inter-latin-600-normal.woff2"),
];
/** Pixels of a PNG for one of the figure, for screens of high density. */
const PNG_SCALE = 2;
const INK = "#1f2328";
const FAINT_INK = "#59636e";

/** How every figure looks. Opaque, so that it can be read on a dark page too. */
const THEME: NonNullable<TopLevelSpec["config"]> = {
  background: "#ffffff",
  font: FONT_FAMILY,
  padding: 14,
  view: { stroke: null },
  title: {
    ...{ anchor: "start", frame: "group", fontSize: 17, fontWeight: 600, color: INK, offset: 12 },
    ...{ subtitleFontSize: 12, subtitleColor: FAINT_INK, subtitlePadding: 5 },
  },
  axis: {
    ...{ labelFontSize: 12, labelColor: INK, titleFontSize: 12, titleFontWeight: 400, titleColor: FAINT_INK },
    ...{ domain: false, ticks: false, gridColor: "#d8dee4", labelPadding: 6 },
  },
  legend: {
    ...{ orient: "bottom", direction: "horizontal", title: null, labelFontSize: 12, labelColor: INK, labelLimit: 0 },
    ...{ symbolSize: 130, symbolType: "square", symbolStrokeWidth: 0, columnPadding: 16, offset: 8 },
  },
};

for (const file of FONT_FILES) {
  const key = GlobalFonts.registerFromPath(fileURLToPath(file), "Inter");
  assert(key !== null, `the font ${file} can be read`);
}

const viewOf = (spec: TopLevelSpec): View =>
  new View(parse(compile(spec, { config: THEME }).spec), { renderer: "none" });

export async function renderSvg(spec: TopLevelSpec): Promise<string> {
  const view = viewOf(spec);
  try {
    return await view.toSVG();
  } finally {
    view.finalize();
  }
}

export async function renderPng(spec: TopLevelSpec): Promise<Uint8Array> {
  const view = viewOf(spec);
  try {
    // The canvas of the package, where a browser would have its own.
    const canvas = (await view.toCanvas(PNG_SCALE)) as unknown as Canvas;
    return await canvas.encode("png");
  } finally {
    view.finalize();
  }
}
