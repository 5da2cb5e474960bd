/** @file From what the user writes behind `--data` to a data set. */
import { UsageError } from "../types/errors.ts";
import { nearest } from "../types/suggest.ts";
import { loadCsv } from "./csv.ts";
import type { DataSet } from "./dataset.ts";
import { digitsDataSet } from "./digits.ts";
import { loadMnist, MNIST_NAMES } from "./mnist.ts";
import { parseSyntheticShape, syntheticDataSet } from "./synthetic.ts";

export interface LoadOptions {
  /** Folder of the files of `mnist` or `fashion-mnist`; without it, where `data get` puts them. */
  readonly dataDir?: string;
  /** The job's seed: only synthetic data depends on it. */
  readonly seed: number;
}

export interface DataSetDescription {
  readonly name: string;
  /** How it is written behind `--data`. */
  readonly form: string;
  readonly description: string;
}

const DESCRIPTIONS: readonly DataSetDescription[] = [
  {
    name: "digits",
    form: "digits",
    description: "10 classes of 28x28 images of digits, drawn by RingTMP: no download",
  },
  { name: "mnist", form: "mnist", description: "10 classes of 28x28 images of handwritten digits (LeCun et al. 1998)" },
  {
    name: "fashion-mnist",
    form: "fashion-mnist",
    description: "10 classes of 28x28 images of clothes (Xiao et al. 2017)",
  },
  { name: "csv", form: "csv:PATH", description: "a table of numbers, the last column the class as an integer from 0" },
  {
    name: "synthetic",
    form: "synthetic:classes=C,features=F[,samples=N,test=M]",
    description: "a classification task drawn from the seed",
  },
];

export function describeDataSets(): readonly DataSetDescription[] {
  return DESCRIPTIONS;
}

/** Fails with a UsageError for a spec that is not understood, a DataError for files that are missing or wrong. */
export async function loadDataSet(spec: string, options: LoadOptions): Promise<DataSet> {
  const colon = spec.indexOf(":");
  const name = colon < 0 ? spec : spec.slice(0, colon);
  const rest = colon < 0 ? undefined : spec.slice(colon + 1);
  if (name === "text") throw new UsageError(`text data (${spec}) is not in this version`, "see `ringtmp data list`");
  if (name === "digits" && rest === undefined) return digitsDataSet();
  const published = MNIST_NAMES.find((known) => known === name);
  if (published !== undefined && rest === undefined) return loadMnist(published, options.dataDir);
  if (name === "csv" && rest) return loadCsv(rest);
  if (name === "synthetic" && rest) return syntheticDataSet(parseSyntheticShape(rest), options.seed);
  throw misread(spec, name);
}

function misread(spec: string, name: string): UsageError {
  const known = DESCRIPTIONS.find((description) => description.name === name);
  if (known !== undefined)
    return new UsageError(`the data set "${spec}" is incomplete or has too much`, `write ${known.form}`);
  const names = DESCRIPTIONS.map((description) => description.name);
  return new UsageError(
    `unknown data set "${spec}"`,
    `did you mean "${nearest(name, names)}"? See \`ringtmp data list\``,
  );
}
