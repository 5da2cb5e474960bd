/** @file A checkpoint of the keys: each layer a shard, pulled from the servers one after the other; and a shard's values from one. */
import { fingerprintOf } from "../../src/config/fingerprint.ts";
import type { RunFolder } from "../../src/metrics/run-folder.ts";
import { layerDigest } from "../../src/nn/digest.ts";
import { SafetensorsFile, withChecksums, writeSafetensors } from "../../src/nn/safetensors.ts";
import { parseModel } from "../../src/nn/spec.ts";
import { parseOptimizer } from "../../src/optim/optimizers.ts";
import { nameShard, openCheckpoint, type Shard, shardDraft, writeManifest } from "../../src/runtime/checkpoint.ts";
import { DataError } from "../../src/types/errors.ts";
import type { KeyRange } from "../core/ranges.ts";
import type { KeyClient } from "./key-client.ts";
import { forLayersIn, initialLayer, layerKeys } from "./layer-keys.ts";
import type { PsJob } from "./messages.ts";
import type { ShardStore } from "./store.ts";
import type { PauseOutcome } from "./worker.ts";

type Saved = Pick<PauseOutcome, "layerDigests" | "notDurable">;

/** Pulls all layers with their states as they are after `step` steps, and writes them. A full or broken disk does not end the run. */
export async function saveKeys(job: PsJob, client: KeyClient, folder: RunFolder, step: number): Promise<Saved> {
  const digests: Record<string, string> = {};
  const shards: Shard[] = [];
  let notDurable: string | null = null;
  for (const layer of parseModel(job.settings.model).layers.keys()) {
    const arrays = await pullLayer(job, client, layer, step);
    digests[String(layer)] = Buffer.from(layerDigest(new Uint8Array(arrays[0]!.buffer))).toString("hex");
    try {
      if (notDurable === null) shards.push(writeLayer(job, folder, step, layer, arrays));
    } catch (error) {
      if (!(error instanceof DataError)) throw error;
      notDurable = error.message;
    }
  }
  if (notDurable === null) {
    const fingerprint = fingerprintOf(job.settings, job.dataSha256, job.engine);
    const durability = await writeManifest(folder, { step, fingerprint, shards });
    if (durability.kind === "notDurable") notDurable = durability.reason;
  }
  return { layerDigests: digests, notDurable };
}

/** The layer's parameters, then its states. */
async function pullLayer({ settings }: PsJob, client: KeyClient, layer: number, step: number) {
  const range = layerKeys(parseModel(settings.model))[layer]!;
  const parts = [undefined, ...parseOptimizer(settings.optimizer).stateNames];
  const arrays = parts.map(() => new Float32Array(range.end - range.start));
  const pulls = arrays.map((into, part) => client.wait(client.pull(range, into, { leastVersion: step, part })));
  await Promise.all(pulls);
  return arrays;
}

function writeLayer(
  { settings }: PsJob,
  folder: RunFolder,
  step: number,
  layer: number,
  arrays: readonly Float32Array[],
): Shard {
  const model = parseModel(settings.model);
  const { inputs, outputs } = model.layers[layer]!;
  const states = parseOptimizer(settings.optimizer).stateNames.map((name) => `optimizer.${name}.layers.${layer}`);
  const tensors = [`layers.${layer}`, ...states].flatMap((prefix, part) => [
    { name: `${prefix}.weight`, shape: [inputs, outputs], data: arrays[part]!.subarray(0, inputs * outputs) },
    { name: `${prefix}.bias`, shape: [outputs], data: arrays[part]!.subarray(inputs * outputs) },
  ]);
  const metadata = { step: String(step), model: model.text, optimizer: settings.optimizer };
  const file = shardDraft(folder, step, [layer, layer + 1]);
  const written = writeSafetensors(file, tensors, withChecksums(tensors, new Map(Object.entries(metadata))));
  return nameShard(file, [layer, layer + 1], written);
}

/** What the shard's keys are before the run's first step: initial weights, or the checkpoint that it goes on from. */
export function fillStore(job: PsJob, store: ShardStore, shard: KeyRange, folder: RunFolder): void {
  const { settings, firstStep } = job;
  const model = parseModel(settings.model);
  const layers = new Map<number, readonly Float32Array[]>();
  const files = firstStep === 0 ? [] : openCheckpoint(folder, firstStep).files.map((file) => new SafetensorsFile(file));
  try {
    forLayersIn(model, shard, (part, layer, place) => {
      const arrays = firstStep === 0 ? [initialLayer(model, layer, settings.seed)] : readLayer(files, settings, layer);
      layers.set(layer, arrays);
      for (const [array, values] of arrays.entries()) {
        store.fill(part, values.subarray(place, place + part.end - part.start), array);
      }
    });
  } finally {
    for (const file of files) file.close();
  }
}

function readLayer(
  files: readonly SafetensorsFile[],
  { model: text, optimizer }: PsJob["settings"],
  layer: number,
): readonly Float32Array[] {
  const { inputs, outputs } = parseModel(text).layers[layer]!;
  const prefixes = ["", ...parseOptimizer(optimizer).stateNames.map((name) => `optimizer.${name}.`)];
  return prefixes.map((prefix) => {
    const values = new Float32Array(inputs * outputs + outputs);
    const read = (name: string, shape: readonly number[], into: Float32Array): void => {
      const full = `${prefix}layers.${layer}.${name}`;
      (files.find((file) => file.has(full)) ?? files[0]!).readFloat32(full, shape, into);
    };
    read("weight", [inputs, outputs], values.subarray(0, inputs * outputs));
    read("bias", [outputs], values.subarray(inputs * outputs));
    return values;
  });
}
