/** @file MNIST (LeCun et al. 1998) and Fashion-MNIST (Xiao et al. 2017) from the four files that they are published as. */
import { access } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";
import { DataError } from "../types/errors.ts";
import type { DataSet } from "./dataset.ts";
import { readIdxPair } from "./idx.ts";
import { pixelDataSet } from "./pixels.ts";

export const MNIST_NAMES = ["mnist", "fashion-mnist"] as const;
export type MnistName = (typeof MNIST_NAMES)[number];

const CLASSES = 10;

/** Where a data set is kept when the user names no folder. */
export function defaultDataDir(name: MnistName): string {
  return join(homedir(), ".cache", "ringtmp", name);
}

/** Reads `dataDir`, whose files may be plain or gzip; a DataError names the first file that is missing or wrong. */
export async function loadMnist(name: MnistName, dataDir: string = defaultDataDir(name)): Promise<DataSet> {
  const remedy = `fetch it with \`ringtmp data get ${name}\`, or name its folder with --data-dir`;
  const load = async (part: string) => {
    const images = await findFile(dataDir, `${part}-images-idx3-ubyte`, remedy);
    return readIdxPair(images, await findFile(dataDir, `${part}-labels-idx1-ubyte`, remedy), CLASSES, remedy);
  };
  return pixelDataSet(name, CLASSES, await load("train"), await load("t10k"));
}

async function findFile(dataDir: string, name: string, remedy: string): Promise<string> {
  for (const file of [join(dataDir, `${name}.gz`), join(dataDir, name)]) {
    const found = await access(file).then(
      () => true,
      () => false,
    );
    if (found) return file;
  }
  throw new DataError(`${dataDir} has no ${name}.gz`, remedy);
}
