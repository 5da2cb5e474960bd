/** @file Checkpoints of a run folder: when they are one, which are kept, what is wrong with those that are not. */
import { createHash } from "node:crypto";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { RunFolder } from "../../src/metrics/run-folder.ts";
import {
  checkpointSteps,
  nameShard,
  newestCheckpoint,
  openCheckpoint,
  shardDraft,
  writeManifest,
  type Shard,
} from "../../src/runtime/checkpoint.ts";
import { DataError } from "../../src/types/errors.ts";

let root: string;
let folder: RunFolder;
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "ringtmp-checkpoint-"));
  folder = RunFolder.create(join(root, "run"), false);
});
afterEach(() => rmSync(root, { recursive: true, force: true }));

function writeShard(step: number, layers: readonly [number, number], content = `${step} ${layers.join()}`): Shard {
  const draft = shardDraft(folder, step, layers);
  writeFileSync(draft, content);
  const sha256 = createHash("sha256").update(content).digest("hex");
  return nameShard(draft, layers, { sha256, sizeBytes: content.length });
}

function save(step: number): void {
  const shards = [writeShard(step, [2, 3]), writeShard(step, [0, 2])];
  writeManifest(folder, { step, model: "mlp:2-3-4", optimizer: "adam", shards });
}

const refusal = (work: () => unknown): string => {
  try {
    work();
  } catch (error) {
    if (!(error instanceof DataError)) throw error;
    expect(error.remedy).toMatch(/^[^\n]+$/);
    return error.message;
  }
  throw new Error("it was not refused");
};

describe("a checkpoint", () => {
  test("is one when its manifest is there, with the shards in layer order", () => {
    const shards = [writeShard(4, [2, 3]), writeShard(4, [0, 2])];
    expect(checkpointSteps(folder)).toEqual([]);
    expect(refusal(() => newestCheckpoint(folder))).toContain("holds no complete checkpoint");
    writeManifest(folder, { step: 4, model: "mlp:2-3-4", optimizer: "adam", shards });
    expect(checkpointSteps(folder)).toEqual([4]);
    const { manifest, files } = newestCheckpoint(folder);
    expect(manifest).toMatchObject({ format: "ringtmp-checkpoint-1", step: 4, model: "mlp:2-3-4", optimizer: "adam" });
    expect(manifest.shards.map(({ layers }) => layers)).toEqual([
      [0, 2],
      [2, 3],
    ]);
    expect(files.map((file) => basename(file))).toEqual(manifest.shards.map(({ file }) => file));
    for (const { file, sha256 } of manifest.shards) expect(file).toContain(sha256.slice(0, 16));
    expect(readdirSync(folder.file("checkpoints", "4")).filter((name) => /tmp|draft/.test(name))).toEqual([]);
  });

  test("is opened for the layers that are wanted: shards of others need not be there", () => {
    save(1);
    const files = (layers: readonly [number, number]): string[] =>
      newestCheckpoint(folder, layers).files.map((file) => basename(file).slice(0, 3));
    expect(files([0, 1])).toEqual(["0-2"]);
    expect(files([2, 3])).toEqual(["2-3"]);
    expect(files([1, 3])).toEqual(["0-2", "2-3"]);
    rmSync(newestCheckpoint(folder).files[0]!);
    expect(files([2, 3])).toEqual(["2-3"]);
  });

  test("of the same step written again by other nodes replaces the manifest, and mixes no shards", () => {
    save(2);
    const other = writeShard(2, [0, 3], "another cut");
    writeManifest(folder, { step: 2, model: "mlp:2-3-4", optimizer: "adam", shards: [other] });
    expect(newestCheckpoint(folder).files.map((file) => basename(file))).toEqual([other.file]);
  });
});

describe("of the complete ones", () => {
  test("the newest three are kept, by number and not by name", () => {
    for (const step of [8, 9, 10, 11, 100]) save(step);
    expect(checkpointSteps(folder)).toEqual([10, 11, 100]);
    expect(newestCheckpoint(folder).manifest.step).toBe(100);
  });

  test("a newer one is never deleted by an older one that is written late", () => {
    for (const step of [50, 60, 70]) save(step);
    save(5);
    expect(checkpointSteps(folder)).toEqual([5, 50, 60, 70]);
    for (const step of [6, 7, 8]) save(step);
    expect(checkpointSteps(folder)).toEqual([6, 7, 8, 50, 60, 70]);
  });

  test("what is under way is neither counted nor deleted", () => {
    for (const step of [1, 2, 3]) save(step);
    const late = writeShard(2, [9, 10]);
    const early = writeShard(0, [0, 2]);
    save(4);
    save(5);
    expect(checkpointSteps(folder)).toEqual([3, 4, 5]);
    expect(existsSync(folder.file("checkpoints", "2", late.file))).toBe(false);
    expect(existsSync(folder.file("checkpoints", "0", early.file))).toBe(true);
  });
});

describe("what is wrong is a data error", () => {
  test("no folder at all", () => {
    expect(checkpointSteps(new RunFolder(join(root, "nowhere")))).toEqual([]);
    expect(refusal(() => newestCheckpoint(new RunFolder(join(root, "nowhere"))))).toContain("no complete checkpoint");
    expect(refusal(() => openCheckpoint(folder, 7))).toContain("manifest.json is not a manifest");
  });

  test("a shard that is missing, by name", () => {
    save(3);
    const [file] = newestCheckpoint(folder).files;
    rmSync(file!);
    expect(refusal(() => newestCheckpoint(folder))).toContain(`lacks ${basename(file!)}`);
  });

  test.each([
    ["a changed byte", (content: Buffer) => Buffer.concat([Buffer.from([content[0]! ^ 1]), content.subarray(1)])],
    ["a cut end", (content: Buffer) => content.subarray(0, -1)],
    ["nothing in it", () => Buffer.alloc(0)],
  ])("a shard with %s", (_, damage) => {
    save(3);
    const file = newestCheckpoint(folder).files[1]!;
    writeFileSync(file, damage(readFileSync(file)));
    expect(refusal(() => newestCheckpoint(folder))).toContain(`${basename(file)} is damaged`);
  });

  test.each([
    ["", "torn"],
    ["{}", "empty"],
    ["null", "null"],
    [JSON.stringify({ format: "other" }), "of another format"],
    [
      JSON.stringify({
        ...{ format: "ringtmp-checkpoint-1", step: 3, model: "m", optimizer: "o" },
        shards: [{ layers: [0, 1], file: "../../../etc/passwd", sha256: "", sizeBytes: 1 }],
      }),
      "that leads out of its folder",
    ],
  ])("a manifest %j (%s)", (text) => {
    save(3);
    writeFileSync(folder.file("checkpoints", "3", "manifest.json"), text);
    expect(refusal(() => newestCheckpoint(folder))).toContain("manifest.json is not a manifest");
  });
});
