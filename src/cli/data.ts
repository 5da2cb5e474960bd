/** @file `data list|get|batches`. */
import { writeFileSync } from "node:fs";
import { BatchPlan } from "../data/batches.ts";
import { downloadDataSet } from "../data/download.ts";
import { describeDataSets, loadDataSet } from "../data/load.ts";
import { defaultDataDir, MNIST_NAMES } from "../data/mnist.ts";
import { parseSettings } from "../config/settings.ts";
import { DataError, ExitCode, UsageError } from "../types/errors.ts";
import { nearest } from "../types/suggest.ts";
import { givenSettings } from "./training-flags.ts";

type Options = Readonly<Record<string, unknown>>;

export async function list(): Promise<number> {
  const rows = describeDataSets().map(({ form, description }) => `${form.padEnd(49)} ${description}`);
  process.stdout.write(`${rows.join("\n")}\n`);
  return ExitCode.done;
}

export async function get(name: string, options: Options): Promise<number> {
  const known = MNIST_NAMES.find((each) => each === name);
  if (known === undefined) {
    throw new UsageError(
      `data get ${name}: not a data set that is downloaded`,
      `did you mean ${nearest(name, MNIST_NAMES)}?`,
    );
  }
  const dataDir = typeof options["dataDir"] === "string" ? options["dataDir"] : defaultDataDir(known);
  await downloadDataSet(known, dataDir);
  process.stdout.write(`${known} is in ${dataDir}\n`);
  return ExitCode.done;
}

export async function batches(options: Options): Promise<number> {
  const settings = parseSettings({ steps: 1, ...givenSettings(options) });
  const { data, dataDir, seed, batch, microBatches, steps } = settings;
  const { train } = await loadDataSet(data, { seed, ...(dataDir === null ? {} : { dataDir }) });
  const plan = new BatchPlan({ count: train.count, seed, batch, microBatches });
  const lines: string[] = [];
  for (let step = 0; step < steps; step += 1) {
    for (let microBatch = 0; microBatch < microBatches; microBatch += 1) {
      lines.push(JSON.stringify({ step, microBatch, samples: [...plan.samples(step, microBatch)] }));
    }
  }
  const text = `${lines.join("\n")}\n`;
  const file = options["dump"];
  if (typeof file !== "string") {
    process.stdout.write(text);
    return ExitCode.done;
  }
  try {
    writeFileSync(file, text);
  } catch (cause) {
    throw new DataError(`${file} cannot be written`, "name a file in a folder that exists", { cause });
  }
  process.stdout.write(`${lines.length} micro-batches in ${file}\n`);
  return ExitCode.done;
}
