/** @file Checkpoints of a run folder: when they are one, which are kept, what is wrong with those that are not. */
import { cpSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { Fingerprint } from "../../src/config/fingerprint.ts";
import { RunFolder } from "../../src/metrics/run-folder.ts";
import { writeSafetensors } from "../../src/nn/safetensors.ts";
import {
  type Checkpoint, checkpointSteps, checkSameJob, nameShard, newestCheckpoint, openCheckpoint, shardDraft, writeManifest,
  type Shard,
} from "../../src/runtime/checkpoint.ts"; // prettier-ignore
import { DataError, UsageError } from "../../src/types/errors.ts";

let root: string;
let folder: RunFolder;
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "ringtmp-checkpoint-"));
  folder = RunFolder.create(join(root, "run"), false);
});
afterEach(() => rmSync(root, { recursive: true, force: true }));

const fingerprint: Fingerprint = { build: "b", model: "mlp:2-3-4", seed: 1, lr: 0.1 };

function writeShard(step: number, layers: readonly [number, number], value = step): Shard {
  const draft = shardDraft(folder, step, layers);
  const tensors = [{ name: `layers.${layers[0]}.weight`, shape: [3], data: Float32Array.of(value, 1, 2) }];
  return nameShard(draft, layers, writeSafetensors(draft, tensors, new Map([["step", String(step)]])));
}

async function save(step: number): Promise<void> {
  const shards = [writeShard(step, [2, 3]), writeShard(step, [0, 2])];
  expect(await writeManifest(folder, { step, fingerprint, shards })).toEqual({ kind: "durable" });
}

/** The newest one, which must be whole. */
function newest(layers?: readonly [number, number]): Checkpoint {
  const warn = (text: string): void => expect.unreachable(text);
  return newestCheckpoint(folder, warn, layers);
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
  test("is one when its manifest is there, with the shards in layer order", async () => {
    const shards = [writeShard(4, [2, 3]), writeShard(4, [0, 2])];
    expect(checkpointSteps(folder)).toEqual([]);
    expect(refusal(() => newest())).toContain("holds no complete checkpoint");
    await writeManifest(folder, { step: 4, fingerprint, shards });
    expect(checkpointSteps(folder)).toEqual([4]);
    const { manifest, files } = newest();
    expect(manifest).toMatchObject({ step: 4, fingerprint });
    expect(manifest.shards.map(({ layers }) => layers)).toEqual([
      [0, 2],
      [2, 3],
    ]);
    expect(files.map((file) => basename(file))).toEqual(manifest.shards.map(({ file }) => file));
    for (const { file, sha256 } of manifest.shards) expect(file).toContain(sha256.slice(0, 16));
    expect(readdirSync(folder.file("checkpoints", "4")).filter((name) => /partial|draft/.test(name))).toEqual([]);
  });

  test("is opened for the layers that are wanted: shards of others need not be there", async () => {
    await save(1);
    const files = (layers: readonly [number, number]): string[] =>
      newest(layers).files.map((file) => basename(file).slice(0, 3));
    expect(files([0, 1])).toEqual(["0-2"]);
    expect(files([2, 3])).toEqual(["2-3"]);
    expect(files([1, 3])).toEqual(["0-2", "2-3"]);
    rmSync(newest().files[0]!);
    expect(files([2, 3])).toEqual(["2-3"]);
  });

  test("of the same step written again by other nodes replaces the manifest, and mixes no shards", async () => {
    await save(2);
    const other = writeShard(2, [0, 3], 7);
    await writeManifest(folder, { step: 2, fingerprint, shards: [other] });
    expect(newest().files.map((file) => basename(file))).toEqual([other.file]);
  });
});

describe("of the complete ones", () => {
  test("the newest three are kept, by number and not by name", async () => {
    for (const step of [8, 9, 10, 11, 100]) await save(step);
    expect(checkpointSteps(folder)).toEqual([10, 11, 100]);
    expect(newest().manifest.step).toBe(100);
  });

  test("a newer one is never deleted by an older one that is written late", async () => {
    for (const step of [50, 60, 70]) await save(step);
    await save(5);
    expect(checkpointSteps(folder)).toEqual([5, 50, 60, 70]);
    for (const step of [6, 7, 8]) await save(step);
    expect(checkpointSteps(folder)).toEqual([6, 7, 8, 50, 60, 70]);
  });

  test("what is under way is neither counted nor deleted", async () => {
    for (const step of [1, 2, 3]) await save(step);
    const late = writeShard(2, [9, 10]);
    const underWay = [5, 9].map((step) => folder.file("checkpoints", `${step}`, writeShard(step, [0, 1]).file));
    await save(4);
    await save(5);
    expect(checkpointSteps(folder)).toEqual([3, 4, 5]);
    expect(existsSync(folder.file("checkpoints", "2", late.file))).toBe(false);
    for (const file of underWay) expect(existsSync(file)).toBe(true);
  });

  test("what came to nothing goes with those before it", async () => {
    writeShard(0, [0, 2]);
    await save(1);
    expect(readdirSync(folder.file("checkpoints")), "no newer one is left to come before it").toEqual(["1"]);
    for (const step of [3, 4]) await save(step);
    writeShard(2, [0, 2]);
    await save(5);
    expect(readdirSync(folder.file("checkpoints")).toSorted()).toEqual(["3", "4", "5"]);
  });
});

describe("what is wrong is a data error", () => {
  test("no folder at all", async () => {
    expect(checkpointSteps(new RunFolder(join(root, "nowhere")))).toEqual([]);
    expect(refusal(() => newestCheckpoint(new RunFolder(join(root, "nowhere")), () => {}))).toContain(
      "no complete checkpoint",
    );
    expect(refusal(() => openCheckpoint(folder, 7))).toContain("manifest.json is not a manifest, or damaged");
  });

  test("a shard that is missing, by name", async () => {
    await save(3);
    const [file] = newest().files;
    rmSync(file!);
    expect(refusal(() => newest())).toContain(`lacks ${basename(file!)}`);
  });

  test.each([
    ["a changed byte", (content: Buffer) => Buffer.concat([Buffer.from([content[0]! ^ 1]), content.subarray(1)])],
    ["a cut end", (content: Buffer) => content.subarray(0, -1)],
    ["nothing in it", () => Buffer.alloc(0)],
  ])("a shard with %s", async (_, damage) => {
    await save(3);
    const file = newest().files[1]!;
    writeFileSync(file, damage(readFileSync(file)));
    expect(refusal(() => newest())).toContain(`${basename(file)} is damaged`);
  });

  test.each([
    ["", "torn"],
    ["{}", "empty"],
    ["null", "null"],
    [JSON.stringify({ format: "other" }), "of another format"],
    [
      JSON.stringify({
        ...{ format: "ringtmp-checkpoint-2", step: 3, fingerprint: {} },
        shards: [{ layers: [0, 1], file: "../../../etc/passwd", sha256: "", sizeBytes: 1 }],
      }),
      "that leads out of its folder",
    ],
  ])("a manifest %j (%s)", async (text) => {
    await save(3);
    writeFileSync(folder.file("checkpoints", "3", "manifest.json"), text);
    expect(refusal(() => newest())).toContain("manifest.json is not a manifest, or damaged");
  });

  test("a manifest of another step", async () => {
    await save(3);
    await save(4);
    cpSync(folder.file("checkpoints", "3"), folder.file("checkpoints", "9"), { recursive: true });
    expect(refusal(() => openCheckpoint(folder, 9))).toContain("9/manifest.json is the manifest of step 3");
  });
});

describe("a checkpoint of another job", () => {
  test.each([
    ["model", "mlp:2-9-4", "has model mlp:2-3-4, not mlp:2-9-4"],
    ["seed", 2, "has seed 1, not 2"],
    ["lr", 0.2, "has lr 0.1, not 0.2"],
    ["build", "c", "has build b, not c"],
  ])("is refused for its %s", async (field, value, text) => {
    await save(3);
    const { manifest } = newest();
    checkSameJob(manifest, fingerprint, "--resume x");
    const check = (): void => checkSameJob(manifest, { ...fingerprint, [field]: value }, "--resume x");
    expect(check).toThrow(UsageError);
    expect(check).toThrow(`--resume x: the checkpoint of step 3 ${text}`);
  });
});
