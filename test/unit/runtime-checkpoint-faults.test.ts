/**
 * @file Checkpoints under damage and faults of the disk: every byte, every cut, crashes at every operation, a disk that is full. What is
 * damaged is named and the older one is used; what could not be written is told; nothing torn is ever loaded.
 */
import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statfsSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { RunFolder } from "../../src/metrics/run-folder.ts";
import { SafetensorsFile, withChecksums, writeSafetensors } from "../../src/nn/safetensors.ts";
import {
  checkpointSteps, type Durability, nameShard, newestCheckpoint, openCheckpoint, removeDrafts, shardDraft, type Shard, writeManifest,
} from "../../src/runtime/checkpoint.ts"; // prettier-ignore
import { ReportedStep } from "../../src/runtime/reported-step.ts";
import { StateFolder } from "../../src/runtime/state-folder.ts";
import { VoteStore } from "../../src/runtime/vote-store.ts";
import { DataError } from "../../src/types/errors.ts";
import { damages, diskFault, FaultyDisk, refusal } from "../helpers/faulty-disk.ts";

let root: string;
let folder: RunFolder;
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "ringtmp-faults-"));
  folder = RunFolder.create(join(root, "run"), false);
});
afterEach(() => rmSync(root, { recursive: true, force: true }));

/** Two tensors, the second one's value the step. */
function writeShard(step: number, layers: readonly [number, number], count = 2): Shard {
  const draft = shardDraft(folder, step, layers);
  const tensors = ["weight", "bias"].map((name) => ({
    name: `layers.${layers[0]}.${name}`,
    shape: [count],
    data: new Float32Array(count).fill(step),
  }));
  return nameShard(draft, layers, writeSafetensors(draft, tensors, withChecksums(tensors, new Map())));
}

async function save(step: number, disk = new FaultyDisk()): Promise<Durability> {
  const shards = [writeShard(step, [0, 1]), writeShard(step, [1, 2])];
  return writeManifest(folder, { step, fingerprint: { model: "mlp:1-2-3", seed: step }, shards }, disk);
}

/** The newest whole one, and what was told of newer ones. */
function newest(): { readonly step: number; readonly told: readonly string[] } {
  const told: string[] = [];
  const { manifest } = newestCheckpoint(folder, (text) => told.push(text));
  return { step: manifest.step, told };
}

describe("damage", () => {
  test("of any byte and any length of any file is found and named, and the older copy used", async () => {
    await save(4);
    await save(8);
    const path = folder.file("checkpoints", "8");
    let count = 0;
    for (const name of readdirSync(path)) {
      const bytes = readFileSync(join(path, name));
      for (const { name: damage, damaged } of damages(bytes)) {
        writeFileSync(join(path, name), damaged);
        const { step, told } = newest();
        expect(step, `${name}: ${damage}`).toBe(4);
        expect(told, `${name}: ${damage}`).toEqual([expect.stringContaining(join(path, name))]);
        expect(told[0]).toMatch(/damaged.*; using the checkpoint of step 4 instead$/);
        count += 1;
      }
      writeFileSync(join(path, name), bytes);
    }
    expect(count).toBeGreaterThan(4000);
    expect(newest()).toEqual({ step: 8, told: [] });
  }, 60_000);

  test("of a shard names the tensor and its offsets, or the header", async () => {
    await save(4);
    const [file] = newestCheckpoint(folder, () => {}).files;
    const bytes = readFileSync(file!);
    const start = 8 + Number(bytes.readBigUInt64LE());
    const told = (at: number): string => {
      const damaged = Buffer.from(bytes);
      damaged[at]! ^= 1;
      writeFileSync(file!, damaged);
      return (newestError() as Error).message;
    };
    const newestError = (): unknown => {
      try {
        return newest();
      } catch (error) {
        return error;
      }
    };
    expect(told(start + 1)).toContain(`tensor layers.0.weight: damaged between offset ${start} and ${start + 8}`);
    expect(told(start + 8)).toContain(`tensor layers.0.bias: damaged between offset ${start + 8} and ${start + 16}`);
    expect(told(bytes.indexOf("crc32") + 9)).toContain("tensor layers.0.weight: damaged");
    expect(told(9)).toMatch(/is damaged: .*header/);
  });

  test("between the check and the reading does not get into the weights", async () => {
    await save(4);
    const [file] = newestCheckpoint(folder, () => {}).files;
    const bytes = readFileSync(file!);
    bytes[bytes.length - 1]! ^= 1;
    writeFileSync(file!, bytes);
    const opened = new SafetensorsFile(file!);
    const into = new Float32Array(2);
    opened.readFloat32("layers.0.weight", [2], into);
    expect([...into]).toEqual([4, 4]);
    expect(() => opened.readFloat32("layers.0.bias", [2], into)).toThrow("tensor layers.0.bias: damaged");
    opened.close();
  });

  test("of all of them is the newest one's error", async () => {
    await save(4);
    await save(8);
    for (const step of ["4", "8"]) writeFileSync(folder.file("checkpoints", step, "manifest.json"), "");
    expect(() => newest()).toThrow(folder.file("checkpoints", "8", "manifest.json"));
  });
});

describe("an older one is deleted only when the newer one reads back", () => {
  test("not when a shard has changed meanwhile, nor when none is here", async () => {
    for (const step of [1, 2, 3]) await save(step);
    const shards = [writeShard(4, [0, 1]), writeShard(4, [1, 2])];
    const spoilt = folder.file("checkpoints", "4", shards[1]!.file);
    const bytes = readFileSync(spoilt);
    bytes[bytes.length - 1]! ^= 1;
    writeFileSync(spoilt, bytes);
    const outcome = await writeManifest(folder, { step: 4, fingerprint: {}, shards });
    expect(outcome).toEqual({ kind: "notDurable", reason: expect.stringContaining(`${basename(spoilt)} is damaged`) });
    expect(checkpointSteps(folder)).toEqual([1, 2, 3, 4]);
    for (const { file } of shards) rmSync(folder.file("checkpoints", "4", file));
    expect(await writeManifest(folder, { step: 4, fingerprint: {}, shards })).toMatchObject({ kind: "notDurable" });
    expect(checkpointSteps(folder)).toEqual([1, 2, 3, 4]);
    expect(newest().step).toBe(3);
    expect(await save(5)).toEqual({ kind: "durable" });
    expect(checkpointSteps(folder)).toEqual([3, 4, 5]);
  });
});

describe("a crash or a fault while a checkpoint is written", () => {
  test("at any operation leaves the older one, or the new one whole", async () => {
    await save(4);
    const undisturbed = new FaultyDisk();
    await save(5, undisturbed);
    rmSync(folder.file("checkpoints", "5"), { recursive: true });
    const operations = undisturbed.begun.length;
    expect(operations).toBe(9);
    for (let fatal = 1; fatal <= operations; fatal++) {
      const disk = new FaultyDisk();
      disk.before = () => {
        if (disk.begun.length >= fatal) throw diskFault("EIO");
      };
      const outcome = await save(8, disk);
      expect(outcome).toEqual({ kind: "notDurable", reason: expect.stringContaining("EIO") });
      expect(newest(), `operation ${fatal}`).toEqual({ step: fatal === operations ? 8 : 4, told: [] });
      expect(await save(8)).toEqual({ kind: "durable" });
      expect(newest()).toEqual({ step: 8, told: [] });
      rmSync(folder.file("checkpoints", "8"), { recursive: true });
    }
  });

  test("leaves files that never count and are cleaned at the next start", async () => {
    await save(4);
    const path = folder.file("checkpoints", "8");
    mkdirSync(path);
    const whole = readFileSync(folder.file("checkpoints", "4", "manifest.json"));
    const left = ["manifest.json.0123456789ab.partial", "0-1.draft", "0-1.draft.0123456789ab.partial"];
    for (const name of left) writeFileSync(join(path, name), whole);
    expect(newest()).toEqual({ step: 4, told: [] });
    writeFileSync(join(path, "0-1.0123456789abcdef.safetensors"), "named already");
    removeDrafts(folder);
    expect(readdirSync(path)).toEqual(["0-1.0123456789abcdef.safetensors"]);
    expect(newest()).toEqual({ step: 4, told: [] });
    expect(openCheckpoint(folder, 4).files).toHaveLength(2);
  });

  test("a folder that cannot be made is a data error, not the end of the run", () => {
    rmSync(folder.file("checkpoints"), { recursive: true });
    writeFileSync(folder.file("checkpoints"), "in the way");
    expect(() => shardDraft(folder, 1, [0, 1])).toThrow(DataError);
  });
});

const DISK_BYTES = 256 * 1024;
const canMount = process.getuid?.() === 0 && process.platform === "linux";

describe.skipIf(!canMount)("a disk that is full (a small tmpfs; only as root)", () => {
  beforeEach(() => mount("mount", "-t", "tmpfs", "-o", `size=${DISK_BYTES}`, "tmpfs", folder.path));
  afterEach(() => mount("umount", folder.path));

  function mount(...words: readonly string[]): void {
    const { status, stderr } = spawnSync(words[0]!, words.slice(1), { encoding: "utf8" });
    expect(stderr).toBe("");
    expect(status).toBe(0);
  }

  const filler = (): string => join(folder.path, "filler");
  function fill(leftBytes: number): void {
    const { bavail, bsize } = statfsSync(folder.path);
    writeFileSync(filler(), Buffer.alloc(bavail * bsize - leftBytes));
  }

  test("takes no shard that does not fit, and is not filled by the attempt", async () => {
    expect(await save(1)).toEqual({ kind: "durable" });
    const { bavail } = statfsSync(folder.path);
    expect(() => writeShard(2, [0, 1], DISK_BYTES / 4)).toThrow(/bytes are needed, \d+ are free/);
    expect(readdirSync(folder.file("checkpoints", "2"))).toEqual([]);
    expect(statfsSync(folder.path).bavail).toBe(bavail);
    expect(newest()).toEqual({ step: 1, told: [] });
  });

  test("takes no manifest, and the older checkpoint stays", async () => {
    await save(1);
    const shards = [writeShard(2, [0, 2])];
    fill(0);
    const outcome = await writeManifest(folder, { step: 2, fingerprint: {}, shards });
    expect(outcome).toEqual({ kind: "notDurable", reason: expect.stringContaining("bytes are needed, 0 are free") });
    expect(newest()).toEqual({ step: 1, told: [] });
    rmSync(filler());
    expect(await writeManifest(folder, { step: 2, fingerprint: {}, shards })).toEqual({ kind: "durable" });
    expect(newest()).toEqual({ step: 2, told: [] });
  });

  test("that fills up behind the look at its space is told by the system, and nothing torn stays", async () => {
    const disk = new FaultyDisk();
    disk.before = (operation) => {
      if (operation === "open") fill(0);
    };
    const outcome = await save(1, disk);
    expect(outcome).toEqual({ kind: "notDurable", reason: expect.stringContaining("ENOSPC") });
    expect(checkpointSteps(folder)).toEqual([]);
    expect(readdirSync(folder.file("checkpoints", "1")).filter((name) => !name.endsWith(".safetensors"))).toEqual([]);
  });

  test("takes no vote and no reported step; when there is place again it does", async () => {
    const state = await StateFolder.open(folder.file("state"));
    const votes = await VoteStore.open(state);
    await votes.save({ ballot: 1 });
    const heard: string[] = [];
    const onDurable = (step: number): void => void heard.push(`durable ${step}`);
    const onFault = (step: number): void => void heard.push(`not durable since ${step}`);
    const reported = await ReportedStep.open({ folder: state, job: "ab", onDurable, onFault });
    fill(0);
    await refusal(votes.save({ ballot: 2 }), DataError);
    reported.note(0);
    await reported.close();
    expect((await VoteStore.open(state)).loaded).toEqual({ ballot: 1 });
    rmSync(filler());
    await votes.save({ ballot: 3 });
    reported.note(1);
    await reported.close();
    expect((await VoteStore.open(state)).loaded).toEqual({ ballot: 3 });
    expect(heard).toEqual(["not durable since 0", "durable 1"]);
    await state.close();
  });
});
