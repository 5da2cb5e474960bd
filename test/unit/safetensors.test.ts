/** @file Checkpoint files: their bytes, hostile ones, and shards that are loaded into another cut. */
import { createHash } from "node:crypto";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { describeDamage, SafetensorsFile, writeSafetensors } from "../../src/nn/safetensors.ts";
import { loadShards, saveShard } from "../../src/nn/shard.ts";
import { DataError } from "../../src/types/errors.ts";
import { RandomStream } from "../../src/types/random.ts";
import { bits, digests, freshSeed, type Held, holdCut, randomBatch, setting, trainStep } from "../helpers/segments.ts";

let folder = "";
let count = 0;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "ringtmp-safetensors-"));
});
afterAll(() => rmSync(folder, { recursive: true }));
const newFile = (): string => join(folder, `file-${count++}`);

/** A file from a header's text and the data behind it. */
function fileOf(header: string, data = new Uint8Array(8), lengthBytes = BigInt(Buffer.byteLength(header))): string {
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(lengthBytes);
  const file = newFile();
  writeFileSync(file, Buffer.concat([length, Buffer.from(header), data]));
  return file;
}

/** Opens and reads every tensor as float32. */
function readAll(file: string): [string, number[]][] {
  const opened = new SafetensorsFile(file);
  try {
    return opened.tensors.map(({ name, shape, sizeBytes }) => {
      const into = new Float32Array(Math.floor(sizeBytes / 4));
      opened.readFloat32(name, shape, into);
      return [name, [...into]];
    });
  } finally {
    opened.close();
  }
}

const tensors = [
  { name: "b", shape: [2, 3], data: Float32Array.of(1, -2, 3.5, 0, -0, 1e-40) },
  { name: "a.Ä", shape: [], data: Float32Array.of(7) },
  { name: "empty", shape: [0, 4], data: new Float32Array() },
];

describe("format", () => {
  test("what is written is read, and nothing else is left", () => {
    const target = join(folder, "only");
    mkdirSync(target);
    const file = join(target, "x.safetensors");
    writeFileSync(file, "older");
    const { sha256, sizeBytes } = writeSafetensors(file, tensors, new Map([["step", "3"]]));
    expect(readdirSync(target)).toEqual(["x.safetensors"]);
    const bytes = readFileSync(file);
    expect(bytes.length).toBe(sizeBytes);
    expect(createHash("sha256").update(bytes).digest("hex")).toBe(sha256);
    expect(Number(bytes.readBigUInt64LE()) % 8).toBe(0);
    expect(readAll(file)).toEqual(tensors.map(({ name, data }) => [name, [...data]]));
    const opened = new SafetensorsFile(file);
    expect(opened.metadata).toEqual(new Map([["step", "3"]]));
    opened.close();
  });

  test("the bytes of the format's description", () => {
    const header = '{"x":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]}}  ';
    expect(readAll(fileOf(header, new Uint8Array(Float32Array.of(0.5, -3).buffer)))).toEqual([["x", [0.5, -3]]]);
  });

  test("a file that cannot be written leaves nothing", () => {
    const target = join(folder, "blocked");
    mkdirSync(join(target, "name"), { recursive: true });
    expect(() => writeSafetensors(join(target, "name"), tensors, new Map())).toThrow(DataError);
    expect(readdirSync(target)).toEqual(["name"]);
    expect(() => writeSafetensors(join(target, "absent", "x"), tensors, new Map())).toThrow("ENOENT");
  });
});

describe("hostile files", () => {
  const x = '"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}';
  test.each([
    ["length of 2^63", () => fileOf(`{${x}}`, undefined, 2n ** 63n), "beyond the file"],
    ["length over 1 MB", () => fileOf(" ".repeat(1_000_001)), "limit"],
    ["length past the end", () => fileOf(`{${x}}`, undefined, 100n), "beyond the file"],
    ["no JSON", () => fileOf("{"), "not JSON"],
    ["not UTF-8", () => { const file = fileOf(`{"\u00e4":1}`); const bytes = readFileSync(file); bytes[10] = 0xff; writeFileSync(file, bytes); return file; }, "not JSON"],
    ["an array", () => fileOf("[]"), "not a JSON object"],
    ["leading space", () => fileOf(` {${x}}`), "not a JSON object"],
    ["the same name twice", () => fileOf(`{${x},${x}}`), '"x" stands twice'],
    ["the same name, escaped", () => fileOf(`{${x},${x.replace("x", "\\u0078")}}`), '"x" stands twice'],
    ["the same field twice", () => fileOf(`{${x.replace("{", '{"dtype":"F32",')}}`), '"dtype" stands twice'],
    ["deep nesting", () => fileOf("[".repeat(900_000)), "not JSON"],
    ["unknown dtype", () => fileOf(`{${x.replace("F32", "F31")}}`), 'tensor x: unknown dtype "F31"'],
    ["unknown field", () => fileOf(`{${x.replace("{", '{"more":1,')}}`), "tensor x: unknown field more"],
    ["no object", () => fileOf('{"x":3}'), "tensor x: not an object"],
    ["negative size", () => fileOf(`{${x.replace("[2]", "[-2]")}}`), "tensor x: bad shape"],
    ["fractional size", () => fileOf(`{${x.replace("[2]", "[2.5]")}}`), "tensor x: bad shape"],
    ["nine dimensions", () => fileOf(`{${x.replace("[2]", "[2,1,1,1,1,1,1,1,1]")}}`), "tensor x: bad shape"],
    ["shape and offsets differ", () => fileOf(`{${x.replace("[2]", "[3]")}}`), "offset 0 to 8 does not hold shape [3]"],
    ["offsets the wrong way", () => fileOf(`{${x.replace("[0,8]", "[8,0]")}}`), "does not hold"],
    ["one offset", () => fileOf(`{${x.replace("[0,8]", "[8]")}}`), "bad offsets"],
    ["a gap before", () => fileOf(`{${x.replace("[0,8]", "[4,12]")}}`, new Uint8Array(12)), "tensor x: starts at offset 4, not at 0"],
    ["an overlap", () => fileOf(`{${x},${x.replace("x", "y")}}`), "starts at offset 0, not at 8"],
    ["data left over", () => fileOf(`{${x}}`, new Uint8Array(9)), "end at offset 8, the data at 9"],
    ["data missing", () => fileOf(`{${x}}`, new Uint8Array(7)), "end at offset 8, the data at 7"],
    ["metadata of numbers", () => fileOf(`{"__metadata__":{"step":3},${x}}`), "metadata step: not a string"],
    ["metadata of nothing", () => fileOf(`{"__metadata__":null,${x}}`), "metadata is not an object"],
    ["checksums for other tensors", () => fileOf(`{"__metadata__":{"crc32":"00"},${x}}`), "metadata crc32: not one a tensor"],
    ["another checksum", () => fileOf(`{"__metadata__":{"crc32":"00000000"},${x}}`), "tensor x: damaged between offset"],
    ["a size that overflows", () => fileOf(`{${x.replace("[2]", "[9007199254740991,9007199254740991]")}}`), "does not hold"],
    ["the metadata twice", () => fileOf(`{"__metadata__":{},"__metadata__":{},${x}}`), '"__metadata__" stands twice'],
    ["another dtype", () => fileOf(`{${x.replace("F32", "I32")}}`), "tensor x: I32 [2], not F32 [2]"],
    ["not finite", () => fileOf(`{${x}}`, new Uint8Array(Float32Array.of(1, NaN).buffer)), "tensor x: not finite at offset 4"],
    ["a folder", () => folder, "not a regular file"],
    ["no file", () => join(folder, "absent"), "ENOENT"],
  ])("%s", (_name, make, reason) => {
    const file = make();
    expect(() => readAll(file)).toThrow(DataError);
    expect(() => readAll(file)).toThrow(reason);
    expect(() => readAll(file)).toThrow(file);
  }); // prettier-ignore

  test("every cut and every longer file is refused", () => {
    const file = newFile();
    writeSafetensors(file, tensors, new Map());
    const bytes = readFileSync(file);
    for (let length = 0; length < bytes.length; length++) {
      writeFileSync(file, bytes.subarray(0, length));
      expect(() => readAll(file), `${length} bytes`).toThrow(DataError);
    }
    writeFileSync(file, Buffer.concat([bytes, Buffer.alloc(1)]));
    expect(() => readAll(file)).toThrow(DataError);
  });

  test.each([5, freshSeed])("changed bytes are read or refused, never anything else (seed %i)", (seed) => {
    const file = newFile();
    writeSafetensors(file, tensors, new Map([["step", "1"]]));
    const original = readFileSync(file);
    const random = new RandomStream(seed, 1001);
    for (let trial = 0; trial < 1000; trial++) {
      const bytes = Buffer.from(original);
      for (let flips = random.nextBelow(3); flips >= 0; flips--)
        bytes[random.nextBelow(bytes.length)] = random.nextBelow(256);
      writeFileSync(file, bytes);
      try {
        readAll(file);
      } catch (error) {
        expect(error).toBeInstanceOf(DataError);
      }
    }
  });
});

describe("shards", () => {
  const common = setting({ model: "mlp:9-8-7-6-5" });
  const batches = [1, 2, 3, 4, 5].map((seed) => randomBatch(common, seed));

  function save(held: readonly Held[]): string[] {
    return held.map(({ segment, memory }) => {
      const file = newFile();
      saveShard(file, segment.layout, memory, segment.step);
      return file;
    });
  }

  function load(held: readonly Held[], files: readonly string[]): void {
    for (const { segment, memory } of held) segment.reset(loadShards(files, segment.layout, memory));
  }

  test.each(["sgd", "momentum", "adam", "adamw", "adagrad"])(
    "a run resumed under another cut has the same bits: %s",
    (optimizer) => {
      const run = holdCut("wasm-exact", { ...common, optimizer }, [1, 3]);
      for (const batch of batches.slice(0, 3)) trainStep(run, batch);
      const files = save(run);
      for (const batch of batches.slice(3)) trainStep(run, batch);
      const resumed = holdCut("wasm-exact", { ...common, optimizer, seed: 99 }, [2]);
      // In the middle of a step, which the loading drops.
      resumed[0]!.segment.forward(0);
      load(resumed, files);
      expect(resumed.map(({ segment }) => segment.step)).toEqual([3, 3]);
      for (const batch of batches.slice(3)) trainStep(resumed, batch);
      expect(bits(resumed, "parameters")).toEqual(bits(run, "parameters"));
      expect(digests(resumed)).toEqual(digests(run));
    },
  );

  test("a changed byte of a tensor is named, also where the number stays finite", () => {
    const held = holdCut("wasm-exact", common, []);
    const [file] = save(held);
    const bytes = readFileSync(file!);
    bytes[bytes.length - 4]! ^= 1;
    writeFileSync(file!, bytes);
    expect(() => load(held, [file!])).toThrow(
      /tensor optimizer\.v\.layers\.3\.bias: damaged between offset \d+ and \d+/,
    );
    expect(describeDamage(file!)).toMatch(/^tensor optimizer\.v\.layers\.3\.bias: damaged between offset \d+ and \d+$/);
  });

  test("names and metadata", () => {
    const held = holdCut("wasm-exact", common, [3]);
    const file = new SafetensorsFile(save(held)[1]!);
    expect(file.tensors.map(({ name, shape }) => `${name} [${shape.join()}]`)).toEqual(
      ["", "optimizer.m.", "optimizer.v."].flatMap((prefix) => [
        `${prefix}layers.3.weight [6,5]`,
        `${prefix}layers.3.bias [5]`,
      ]),
    );
    expect(Object.fromEntries(file.metadata)).toEqual({ step: "0", model: common.model, optimizer: "adam" });
    file.close();
  });

  test("without training, only the parameters are loaded", () => {
    const run = holdCut("wasm-exact", common, []);
    trainStep(run, batches[0]!);
    const held = holdCut("wasm-exact", { ...common, optimizer: "sgd", training: false }, []);
    load(held, save(run));
    expect(digests(held)).toEqual(digests(run));
  });

  test("shards that do not belong together are refused", () => {
    const held = holdCut("wasm-exact", common, [2]);
    const [first, second] = save(held);
    trainStep(held, batches[0]!);
    const later = save(held);
    expect(() => load(held, [first!])).toThrow("tensor layers.2.weight: missing");
    expect(() => load(held, [first!, later[1]!])).toThrow("of step 1");
    expect(() => load(holdCut("wasm-exact", { ...common, optimizer: "sgd" }, []), [first!, second!])).toThrow(
      'of optimizer "adam"',
    );
    expect(() => load(holdCut("wasm-exact", { ...common, model: "mlp:9-8-5" }, []), [first!])).toThrow("of model");
    expect(() => load(held, [fileOf("{}", new Uint8Array())])).toThrow(DataError);
    const metadata = JSON.stringify({ step: "1e3", model: common.model, optimizer: "adam" });
    expect(() => load(held, [fileOf(`{"__metadata__":${metadata}}`, new Uint8Array())])).toThrow(
      'step "1e3" is no step',
    );
  });
});
