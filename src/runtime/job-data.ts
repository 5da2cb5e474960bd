/** @file The data of a job, and whether its model fits it. */
import type { Settings } from "../config/settings.ts";
import type { DataSet } from "../data/dataset.ts";
import { loadDataSet } from "../data/load.ts";
import { parseModel, type ModelSpec } from "../nn/spec.ts";
import { UsageError } from "../types/errors.ts";

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
