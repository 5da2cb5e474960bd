/**
 * @file What a node lacks of what all nodes tell, by name; that a word that comes twice counts once; and that whoever has all reports has the
 * summary, whatever its disk holds.
 */
import { writeFileSync } from "node:fs";
import { afterAll, expect, test } from "vitest";
import { Recorder } from "../../src/metrics/recorder.ts";
import { writeSafetensors } from "../../src/nn/safetensors.ts";
import { checkpointSteps, nameShard, openCheckpoint, shardDraft } from "../../src/runtime/checkpoint.ts";
import type { LayerRange } from "../../ring/core/partition.ts";
import type { RingView } from "../../ring/core/view.ts";
import { RUN_FILES } from "../../src/metrics/run-folder.ts";
import { Bulletin } from "../../ring/runtime/bulletin.ts";
import type { AnnouncementBody } from "../../ring/runtime/messages.ts";
import { nameOf, News } from "../../ring/runtime/news.ts";
import { madeReport } from "../helpers/made-report.ts";
import { jobOf, Scratch, soon, tinySettings } from "../helpers/memory-ring.ts";
import { madeView } from "../helpers/view-explorer-views.ts";

const scratch = new Scratch();
afterAll(() => scratch.remove());

function bulletinOf(nodes: number, changes: Partial<RingView> = {}, isWriter = false) {
  const folder = scratch.folder();
  const notDurable: string[] = [];
  const recorder = new Recorder({ folder, batch: 12, earlier: [], startedMs: 0 });
  const bulletin = new Bulletin({
    ...{ job: jobOf(tinySettings({ nodes })), view: madeView(nodes, changes), engine: "wasm:1", folder, recorder },
    isWriter: () => isWriter || recorder.isWriter,
    onNotDurable: (step, reason) => notDurable.push(`${step} ${reason}`),
  });
  const saved = (step: number, layers: LayerRange): void => {
    const draft = shardDraft(folder, step, layers);
    const tensors = [{ name: `layers.${layers[0]}.weight`, shape: [1], data: Float32Array.of(1) }];
    bulletin.post({
      kind: "saved",
      step,
      shard: nameShard(draft, layers, writeSafetensors(draft, tensors, new Map())),
    });
  };
  return { bulletin, folder, notDurable, recorder, saved };
}

const cutOf = (text: string): readonly LayerRange[] =>
  text.split(" ").map((range): LayerRange => [Number(range.split("-")[0]), Number(range.split("-")[1])]);

const notSaved = (step: number, layer: number): AnnouncementBody => ({
  ...{ kind: "notSaved", step, layers: [layer, layer + 1], reason: `full at ${layer}` },
});

test("of a checkpoint that one segment was told of, the others are lacking", () => {
  const { bulletin, notDurable } = bulletinOf(3);
  expect(bulletin.lacking).toEqual([]);
  bulletin.post(notSaved(4, 1));
  bulletin.post(notSaved(4, 1));
  expect(bulletin.lacking).toEqual(["saved 4 0", "saved 4 2"]);
  expect(bulletin.find(["saved 4 0", "saved 4 1"])).toEqual([notSaved(4, 1)]);
  bulletin.post(notSaved(4, 0));
  expect(notDurable).toEqual([]);
  bulletin.post(notSaved(4, 2));
  expect(notDurable).toEqual(["4 full at 1"]);
  expect(bulletin.lacking).toEqual([]);
  expect(bulletin.find(["saved 4 0"]), "for others that lack it").toEqual([notSaved(4, 0)]);
});

test("a segment of another cut is no part of a checkpoint, saved or not", async () => {
  const cut = cutOf("0-2 2-4 4-8");
  const { bulletin, folder, notDurable, saved } = bulletinOf(3, { cut }, true);
  saved(5, [4, 6]);
  saved(5, [0, 2]);
  saved(5, [2, 4]);
  expect(bulletin.lacking).toEqual(["saved 5 4"]);
  bulletin.post({ kind: "notSaved", step: 5, layers: [4, 6], reason: "full" });
  expect(bulletin.find(["saved 5 4"]), "nobody else gets it from here").toEqual([]);
  saved(5, [4, 8]);
  await bulletin.written;
  expect(openCheckpoint(folder, 5).manifest.shards.map(({ layers }) => layers)).toEqual(cut);
  expect(notDurable).toEqual([]);
});

test.each([
  ["a layer is in none", "0-1 1-2 3-4"],
  ["a layer is in two", "0-1 1-3 2-4"],
  ["the last layer is missing", "0-1 1-2 2-3"],
  ["the first layer is missing", "1-2 2-3 3-4"],
])("where %s it is no checkpoint; without replicas layers move within the view", async (_, ranges) => {
  const { bulletin, folder, notDurable, saved } = bulletinOf(3, { cut: cutOf("0-1 1-2 2-4"), replicas: 0 }, true);
  for (const layers of cutOf(ranges)) saved(5, layers);
  for (const layers of cutOf("3-4 0-2 2-3")) saved(6, layers);
  await bulletin.written;
  expect(checkpointSteps(folder)).toEqual([6]);
  expect(notDurable).toEqual(["5 its segments are not the whole model"]);
});

test("reports are lacking once the run ends, as somebody says", () => {
  const { bulletin } = bulletinOf(3);
  bulletin.ending();
  expect(bulletin.lacking).toEqual(["report 0", "report 1", "report 2"]);
});

test("of checkpoints and evaluations the newest are kept", () => {
  const news = new News();
  for (let step = 0; step < 300; step += 1) news.add({ kind: "evaluated", step, correct: 1, lossSum: 1 });
  expect(news.find(["evaluated 0"])).toEqual([]);
  expect(news.find(["evaluated 299"])).toHaveLength(1);
  expect(nameOf(notSaved(3, 2))).toBe("saved 3 2");
});

test.each([
  ["metrics", RUN_FILES.metrics],
  ["a timeline", "timeline/1.jsonl"],
])("with half a line in the middle of %s the summary comes all the same, and the user is told", async (_, name) => {
  const { bulletin, notDurable, recorder, folder } = bulletinOf(2);
  recorder.write(true);
  recorder.committed(0, 2.5, 10);
  writeFileSync(folder.file(name), '{"step":0,"lo{"step":0,"loss":2.5}\n');
  bulletin.post({ kind: "evaluated", step: 1, correct: 3, lossSum: 1 });
  for (const node of [0, 1]) {
    bulletin.post({ kind: "report", completedSteps: 1, report: madeReport(node), recoveries: [] });
  }
  const summary = await soon(bulletin.summary, "the summary");
  expect(summary).toMatchObject({ steps: 1, finalLoss: 2.5 });
  expect(folder.readJson(RUN_FILES.summary)).toEqual(JSON.parse(JSON.stringify(summary)));
  expect(notDurable).toEqual([expect.stringContaining(`1 ${folder.file(name)}: line 1 is not JSON`)]);
});
