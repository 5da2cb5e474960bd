/**
 * @file A segment's parameters and optimizer state as one safetensors file: `layers.<i>.weight`, `layers.<i>.bias`, and the
 * same behind `optimizer.<state>.` for each state tensor; metadata `step`, `model`, `optimizer`. The segment that loads may
 * be cut otherwise: any files that together cover its layers will do.
 */
import type { EngineMemory } from "../engine/memory.ts";
import { STEPS_MAX } from "../optim/optimizer.ts";
import { parseOptimizer } from "../optim/optimizers.ts";
import { assert } from "../types/assert.ts";
import { DataError } from "../types/errors.ts";
import type { BlockLayout, HeldLayout } from "./layout.ts";
import { SafetensorsFile, withChecksums, writeSafetensors, type WrittenFile } from "./safetensors.ts";

/** Shards of one checkpoint: at most one per layer of the deepest model. */
const FILES_MAX = 1000;

interface NamedBlock {
  readonly prefix: string;
  readonly block: BlockLayout;
}

/** Parameters first, then the states, each layer by layer. */
function namedBlocks({ layers, init }: HeldLayout): NamedBlock[] {
  const parameters = layers.map(({ index, parameters: block }) => ({ prefix: `layers.${index}`, block }));
  const states = parseOptimizer(init.optimizer).stateNames.flatMap((name, state) =>
    layers.flatMap(({ index, states: blocks }) =>
      blocks.slice(state, state + 1).map((block) => ({ prefix: `optimizer.${name}.layers.${index}`, block })),
    ),
  );
  return [...parameters, ...states];
}

/** `step`: the step that comes next. Throws `DataError` where the file cannot be written. */
export function saveShard(file: string, layout: HeldLayout, memory: EngineMemory, step: number): WrittenFile {
  const tensors = namedBlocks(layout).flatMap(({ prefix, block: { weight, bias } }) => [
    { name: `${prefix}.weight`, shape: weight.shape, data: memory.f32(weight) },
    { name: `${prefix}.bias`, shape: bias.shape, data: memory.f32(bias) },
  ]);
  const metadata = { step: String(step), model: layout.model.text, optimizer: layout.init.optimizer };
  return writeSafetensors(file, tensors, withChecksums(tensors, new Map(Object.entries(metadata))));
}

/**
 * Fills the parameters, and in training the optimizer states; returns the step that comes next. Throws `DataError` where a
 * file is torn, of another model, optimizer or step, or where a tensor is in none; what was filled is then undefined.
 */
export function loadShards(files: readonly string[], layout: HeldLayout, memory: EngineMemory): number {
  assert(files.length >= 1 && files.length <= FILES_MAX, `1 to ${FILES_MAX} files are loaded`);
  const shards: SafetensorsFile[] = [];
  try {
    for (const file of files) shards.push(new SafetensorsFile(file));
    const steps = shards.map((shard) => checkedStep(shard, layout));
    const other = steps.findIndex((step) => step !== steps[0]);
    if (other !== -1)
      throw fault(files[other] as string, `of step ${steps[other]}, where ${files[0]} is of ${steps[0]}`);
    for (const { prefix, block } of namedBlocks(layout)) {
      readTensor(shards, `${prefix}.weight`, block.weight.shape, memory.f32(block.weight));
      readTensor(shards, `${prefix}.bias`, block.bias.shape, memory.f32(block.bias));
    }
    return steps[0] as number;
  } finally {
    for (const shard of shards) shard.close();
  }
}

function readTensor(
  shards: readonly SafetensorsFile[],
  name: string,
  shape: readonly number[],
  into: Float32Array,
): void {
  const shard = shards.find((candidate) => candidate.has(name)) ?? shards[0];
  shard?.readFloat32(name, shape, into);
}

function checkedStep({ file, metadata }: SafetensorsFile, { model, init }: HeldLayout): number {
  const saved = metadata.get("model");
  if (saved !== model.text) throw fault(file, `of model "${saved}", not "${model.text}"`);
  const optimizer = metadata.get("optimizer");
  if (init.training !== false && optimizer !== init.optimizer) {
    throw fault(file, `of optimizer "${optimizer}", not "${init.optimizer}"`);
  }
  const step = metadata.get("step") ?? "";
  if (!/^[0-9]{1,10}$/.test(step) || Number(step) > STEPS_MAX) throw fault(file, `metadata step "${step}" is no step`);
  return Number(step);
}

function fault(file: string, reason: string): DataError {
  return new DataError(`${file}: ${reason}`, "give the files of one checkpoint of this job");
}
