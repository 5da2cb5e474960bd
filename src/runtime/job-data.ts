/** @file The data of a job, and whether its model fits it. */
import type { Settings } from "../config/settings.ts";
import type { DataSet } from "../data/dataset.ts";
import { loadDataSet } from "../data/load.ts";
import { RUN_FILES, type RunFolder } from "../metrics/run-folder.ts";
import { parseModel, type ModelSpec } from "../nn/spec.ts";
import { DataError, UsageError } from "../types/errors.ts";

/** Throws as the loaders do, and UsageError where the model's widths are not the data's. */
export async function loadJobData(settings: Settings): Promise<DataSet> {
  const model = parseModel(settings.model);
  const { data, dataDir, seed } = settings;
  const dataSet = await loadDataSet(data, { seed, ...(dataDir === null ? {} : { dataDir }) });
  checkFit(model, dataSet);
  return dataSet;
}

function checkFit(model: ModelSpec, data: DataSet): void {
  if (model.features === data.features && model.classes === data.classes) return;
  const fitting = [data.features, ...model.layers.slice(0, -1).map((layer) => layer.outputs), data.classes].join("-");
  throw new UsageError(
    `--model ${model.text} takes ${model.features} features and gives ${model.classes} classes; ${data.name} has ${data.features} and ${data.classes}`,
    `use for example --model mlp:${fitting}`,
  );
}

/** Throws DataError where `data` is not what the folder's run was trained on. `what` begins the message. */
export function checkSameData(folder: RunFolder, data: DataSet, what: string): void {
  const { dataSha256 } = folder.readJson(RUN_FILES.environment) as { readonly dataSha256: string };
  if (dataSha256 === data.sha256) return;
  throw new DataError(
    `${what}: ${data.name} is not the data that the run began with`,
    "name the folder of that data with --data-dir, or start a new run",
  );
}
