/** @file `evaluate` and `export`: what can be made of a run's folder. */
import { parseSettings, type Settings } from "../config/settings.ts";
import { RUN_FILES, RunFolder } from "../metrics/run-folder.ts";
import { loadKernels } from "../engine/load.ts";
import { segmentMemory } from "../nn/layout.ts";
import { Segment } from "../nn/segment.ts";
import { loadShards } from "../nn/shard.ts";
import { parseModel } from "../nn/spec.ts";
import { writeSafetensors } from "../nn/safetensors.ts";
import { checkpointSteps, newestCheckpoint, openCheckpoint, type Checkpoint } from "../runtime/checkpoint.ts";
import { planOn } from "../runtime/compute-thread.ts";
import { chooseEngines } from "../runtime/engines.ts";
import { evaluationCount, Feeder } from "../runtime/feeder.ts";
import { checkSameData, loadJobData } from "../runtime/job-data.ts";
import { defined } from "../types/assert.ts";
import { DataError, ExitCode, UsageError } from "../types/errors.ts";

type Options = Readonly<Record<string, unknown>>;

export async function evaluate(path: string, options: Options): Promise<number> {
  const { folder, settings } = openRunFolder(path, options);
  const { manifest, files } = newestCheckpoint(folder, warn);
  const data = await loadJobData(settings);
  checkSameData(folder, data, path);
  const { segment, memory } = wholeModel(settings, files);
  const slot = defined(segment.layout.slots[0], "one slot");
  const feeder = new Feeder(data, settings);
  let correct = 0;
  let lossSum = 0;
  for (let index = 0; index < evaluationCount(data.test.count, segment.layout.init.rows); index += 1) {
    feeder.fillEvaluation(memory, slot, index);
    const result = segment.evaluate(0);
    correct += result.correct;
    lossSum += result.loss;
  }
  const { count } = data.test;
  const result = { step: manifest.step, samples: count, testAccuracy: correct / count, testLoss: lossSum / count };
  const accuracy = `${(100 * result.testAccuracy).toFixed(2)} %`;
  const sentence = `step ${result.step}: test accuracy ${accuracy}, test loss ${result.testLoss.toFixed(4)}, ${count} samples of ${data.name}`;
  process.stdout.write(`${options["json"] === true ? JSON.stringify(result) : sentence}\n`);
  return ExitCode.done;
}

export async function exportModel(path: string, options: Options): Promise<number> {
  const { folder, settings } = openRunFolder(path, options);
  const step = stepOf(options["step"] as string | undefined);
  const checkpoint = step === 0 ? undefined : checkpointOf(folder, step);
  const { segment, memory } = wholeModel(settings, checkpoint?.files);
  const savedStep = checkpoint?.manifest.step ?? 0;
  const tensors = segment.layout.layers.flatMap(({ index, parameters: { weight, bias } }) => [
    { name: `layers.${index}.weight`, shape: weight.shape, data: memory.f32(weight) },
    { name: `layers.${index}.bias`, shape: bias.shape, data: memory.f32(bias) },
  ]);
  const file = typeof options["out"] === "string" ? options["out"] : folder.file(`model-${savedStep}.safetensors`);
  const { sizeBytes } = writeSafetensors(
    file,
    tensors,
    new Map([
      ["model", parseModel(settings.model).text],
      ["step", String(savedStep)],
    ]),
  );
  process.stdout.write(`${file}: ${tensors.length} tensors of step ${savedStep}, ${sizeBytes} bytes\n`);
  return ExitCode.done;
}

function openRunFolder(path: string, options: Options): { readonly folder: RunFolder; readonly settings: Settings } {
  const folder = new RunFolder(path);
  const config = folder.readJson(RUN_FILES.config) as Record<string, unknown>;
  const dataDir = options["dataDir"];
  return { folder, settings: parseSettings(typeof dataDir === "string" ? { ...config, dataDir } : config) };
}

function checkpointOf(folder: RunFolder, step: number | undefined): Checkpoint {
  if (step === undefined) return newestCheckpoint(folder, warn);
  const present = checkpointSteps(folder);
  if (present.includes(step)) return openCheckpoint(folder, step);
  throw new DataError(
    `--step ${step}: ${folder.path} has no checkpoint of it`,
    `use one of ${[0, ...present].join(", ")}`,
  );
}

function warn(text: string): void {
  process.stderr.write(`warning: ${text}\n`);
}

function stepOf(value: string | undefined): number | undefined {
  if (value === undefined) return undefined;
  if (/^\d{1,10}$/.test(value)) return Number(value);
  throw new UsageError(
    `--step "${value}": a whole number is needed`,
    "use 0 for the initial weights, or leave it out for the newest",
  );
}

/** All layers in this process, forward only: from shards, or as before the first step. */
function wholeModel(settings: Settings, files: readonly string[] | undefined) {
  const { model, batch, microBatches, optimizer, lr: rate, seed } = settings;
  const engine = defined(chooseEngines(settings.engine).kinds[0], "an engine");
  const layers = [0, parseModel(model).layers.length] as const;
  const init = { model, layers, rows: batch / microBatches, slots: 1, optimizer, rate, seed, batch, training: false };
  const layout = planOn(engine, init);
  const memory = segmentMemory([layout]);
  const segment = new Segment(layout, memory, loadKernels(engine, memory.memory));
  if (files === undefined) segment.initialize();
  else loadShards(files, layout, memory);
  return { segment, memory };
}
