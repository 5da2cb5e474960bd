/** @file What the commands make of a run's folder, and what they say of data. */
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { digitsDataSet } from "../../src/data/digits.ts";
import { CommandLine, SMALL } from "../helpers/cli.ts";

const LIMIT_MS = 120_000;

interface SavedTensor {
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly data_offsets: readonly [number, number];
}

/** A safetensors file as its specification has it: header length, JSON, data. */
function readSafetensors(file: string) {
  const bytes = readFileSync(file);
  const headerBytes = Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.toString("utf8", 8, 8 + headerBytes)) as Record<string, SavedTensor>;
  const { __metadata__: metadata, ...tensors } = header;
  const dataOf = ({ data_offsets: [start, end] }: SavedTensor): Uint8Array =>
    bytes.subarray(8 + headerBytes + start, 8 + headerBytes + end);
  return { metadata, tensors, dataOf };
}

/** By the definition: SHA-256 over the layers' SHA-256, each over its weight and then its bias. */
function weightsSha256({ tensors, dataOf }: ReturnType<typeof readSafetensors>, layers: number): string {
  const model = createHash("sha256");
  for (let layer = 0; layer < layers; layer += 1) {
    const hash = createHash("sha256");
    for (const name of ["weight", "bias"]) hash.update(dataOf(tensors[`layers.${layer}.${name}`] as SavedTensor));
    model.update(hash.digest());
  }
  return model.digest("hex");
}

test(
  "evaluate and export read what a ring wrote",
  async () => {
    await using cli = new CommandLine();
    const summary = await cli.train(...SMALL, "-n", "3", "--steps", "20", "--checkpoint-every", "8", "--out", "run");
    const evaluation = JSON.parse((await cli.run("evaluate", "run", "--json")).stdout) as unknown;
    const { count } = digitsDataSet().test;
    expect(evaluation).toMatchObject({ step: 20, samples: count, testAccuracy: summary["testAccuracy"] });
    const sentence = (await cli.run("evaluate", "run")).stdout;
    expect(sentence).toMatch(/^step 20: test accuracy \d+\.\d\d %, test loss \d\.\d{4}, \d+ samples of digits\n$/);

    expect((await cli.run("export", "run", "--step", "0", "--out", "initial.safetensors")).code).toBe(0);
    expect(await cli.run("export", "run")).toMatchObject({
      code: 0,
      stdout: expect.stringMatching(/^\S+\/run\/model-20\.safetensors: 6 tensors of step 20, \d+ bytes\n$/),
    });
    const initial = readSafetensors(cli.file("initial.safetensors"));
    const final = readSafetensors(cli.file("run", "model-20.safetensors"));
    expect(weightsSha256(initial, 3)).toBe(summary["initialWeightsSha256"]);
    expect(weightsSha256(final, 3)).toBe(summary["weightsSha256"]);
    expect(final.metadata).toEqual({ model: "mlp:784-24-16-10", step: "20" });
    const shapes = Object.entries(final.tensors).map(
      ([name, { dtype, shape }]) => `${name} ${dtype} ${shape.join("x")}`,
    );
    expect(shapes.toSorted()).toEqual([
      ...["layers.0.bias F32 24", "layers.0.weight F32 784x24", "layers.1.bias F32 16", "layers.1.weight F32 24x16"],
      ...["layers.2.bias F32 10", "layers.2.weight F32 16x10"],
    ]);
    expect((await cli.run("export", "run", "--step", "8")).code).toBe(0);
    const missing = await cli.run("export", "run", "--step", "9");
    expect(missing.code).toBe(3);
    expect(missing.stderr).toMatch(
      /^error: --step 9: \S+ has no checkpoint of it\n {2}fix: use one of 0, 8, 16, 20\n$/,
    );
    const { weightsSha256: serial } = await cli.train("--system", "serial", ...SMALL, "--steps", "8", "--out", "eight");
    expect(weightsSha256(readSafetensors(cli.file("run", "model-8.safetensors")), 3)).toBe(serial);
  },
  LIMIT_MS,
);

test(
  "data: what there is, and which samples a step sees",
  async () => {
    await using cli = new CommandLine();
    const { stdout } = await cli.run("data", "list");
    for (const form of ["digits", "mnist", "fashion-mnist", "csv:PATH", "synthetic:"]) expect(stdout).toContain(form);
    const job = ["--data", "synthetic:classes=3,features=4,samples=100,test=5", "--batch", "20"] as const;
    const flags = [...job, "--micro-batches", "4", "--steps", "10", "--seed", "3"] as const;
    const dumped = await cli.run("data", "batches", ...flags, "--dump", "batches.jsonl");
    expect(dumped.stdout).toBe("40 micro-batches in batches.jsonl\n");
    const lines = cli.lines("batches.jsonl") as readonly { step: number; microBatch: number; samples: number[] }[];
    expect(lines.map(({ step, microBatch }) => 4 * step + microBatch)).toEqual(lines.map((_, index) => index));
    const epoch = (first: number) => lines.slice(first, first + 20).flatMap(({ samples }) => samples);
    for (const first of [0, 20]) {
      const inOrder = epoch(first).toSorted((a, b) => a - b);
      expect(inOrder, "each sample once in an epoch").toEqual(Array.from({ length: 100 }, (_, sample) => sample));
    }
    expect(epoch(0)).not.toEqual(epoch(20));
    const shown = await cli.run("data", "batches", ...flags);
    expect(shown.stdout).toBe(readFileSync(cli.file("batches.jsonl"), "utf8"));
    const unwritable = await cli.run("data", "batches", ...flags, "--dump", "none/batches.jsonl");
    expect(unwritable).toMatchObject({ code: 3, stderr: expect.stringMatching(/^error: none\/batches.jsonl cannot/) });
  },
  LIMIT_MS,
);
