/**
 * @file What a node lacks of what all nodes tell, by name; that a word that comes twice counts once; and that whoever has all reports has the
 * summary, whatever its disk holds.
 */
import { writeFileSync } from "node:fs";
import { afterAll, expect, test } from "vitest";
import { Recorder } from "../../src/metrics/recorder.ts";
import { RUN_FILES } from "../../src/metrics/run-folder.ts";
import { Bulletin } from "../../ring/runtime/bulletin.ts";
import type { AnnouncementBody } from "../../ring/runtime/messages.ts";
import { nameOf, News } from "../../ring/runtime/news.ts";
import { madeReport } from "../helpers/made-report.ts";
import { jobOf, Scratch, soon, tinySettings } from "../helpers/memory-ring.ts";
import { madeView } from "../helpers/view-explorer-views.ts";

const scratch = new Scratch();
afterAll(() => scratch.remove());

function bulletinOf(nodes: number) {
  const folder = scratch.folder();
  const notDurable: string[] = [];
  const recorder = new Recorder({ folder, batch: 12, earlier: [], startedMs: 0 });
  const bulletin = new Bulletin({
    ...{ job: jobOf(tinySettings({ nodes })), view: madeView(nodes), engine: "wasm:1", folder, recorder },
    isWriter: () => recorder.isWriter,
    onNotDurable: (step, reason) => notDurable.push(`${step} ${reason}`),
  });
  return { bulletin, notDurable, recorder, folder };
}

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
