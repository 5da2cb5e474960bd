/**
 * @file Fetches the published files of a data set: from the first mirror that delivers what the checksum says. A file
 * appears under its name only when it is whole. MD5 guards against damage, as it was published, not against malice.
 */
import { createHash, randomUUID } from "node:crypto";
import { mkdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { DataError, InterruptedError, NetworkError, RingTmpError } from "../types/errors.ts";
import { causeOf } from "./files.ts";
import type { MnistName } from "./mnist.ts";

export interface DownloadSource {
  /** Folders on the net, the preferred first; each ends in a slash. */
  readonly mirrors: readonly string[];
  readonly files: readonly { readonly name: string; readonly md5: string }[];
}

export interface DownloadOptions {
  readonly fetch?: typeof fetch;
  /** Called as bytes arrive, and once with all of them for a file that was there already. */
  readonly onProgress?: (progress: { readonly file: string; readonly receivedBytes: number }) => void;
  readonly signal?: AbortSignal;
}

/** The largest published file has 26 MB. */
const FILE_BYTES_MAX = 64 * 2 ** 20;
/** A mirror that sends nothing for so long is given up. */
const SILENCE_MS_MAX = 30_000;

const TRAIN_IMAGES = "train-images-idx3-ubyte.gz";
const TRAIN_LABELS = "train-labels-idx1-ubyte.gz";
const TEST_IMAGES = "t10k-images-idx3-ubyte.gz";
const TEST_LABELS = "t10k-labels-idx1-ubyte.gz";

export const DOWNLOAD_SOURCES: Readonly<Record<MnistName, DownloadSource>> = {
  mnist: {
    mirrors: ["https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/"],
    files: [
      { name: TRAIN_IMAGES, md5: "f68b3c2dcbeaaa9fbdd348bbdeb94873" },
      { name: TRAIN_LABELS, md5: "d53e105ee54ea40749a09fcbcd1e9432" },
      { name: TEST_IMAGES, md5: "9fb629c4189551a2d022fa330f9573f3" },
      { name: TEST_LABELS, md5: "ec29112dd5afa0611ce80d1b7f02629c" },
    ],
  },
  "fashion-mnist": {
    mirrors: ["http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"],
    files: [
      { name: TRAIN_IMAGES, md5: "8d4fb7e6c68d591d4c3dfef9ec88bf0d" },
      { name: TRAIN_LABELS, md5: "25c81989df183df01b3e8a0aad5dffbe" },
      { name: TEST_IMAGES, md5: "bef4ecab320f06d8554ea6380940ec79" },
      { name: TEST_LABELS, md5: "bb300cfdad3c16e7a12a480ee83cd310" },
    ],
  },
};

/**
 * Puts a source's files into `dataDir`, which is made if needed. A file that is there already is kept.
 *
 * Fails with a NetworkError when no mirror can be reached, a DataError when what they send is not the published file or
 * a file of that name with other content stands in the way, an InterruptedError when `signal` fires.
 */
export async function downloadFiles(source: DownloadSource, dataDir: string, options: DownloadOptions): Promise<void> {
  for (const { name, md5 } of source.files) {
    const path = join(dataDir, name);
    const present = await readFile(path).catch(() => undefined);
    if (present === undefined) {
      await writeWhole(dataDir, path, await fetchFromMirrors(source.mirrors, name, md5, options));
    } else if (md5Of([present]) === md5) {
      options.onProgress?.({ file: name, receivedBytes: present.length });
    } else {
      throw new DataError(
        `${path} exists and is not the published file`,
        "remove it, or name another folder with --data-dir",
      );
    }
  }
}

/** Puts a data set's published files into `dataDir`; see `downloadFiles` for the errors. */
export async function downloadDataSet(name: MnistName, dataDir: string, options: DownloadOptions = {}): Promise<void> {
  await downloadFiles(DOWNLOAD_SOURCES[name], dataDir, options);
}

async function fetchFromMirrors(
  mirrors: readonly string[],
  name: string,
  md5: string,
  options: DownloadOptions,
): Promise<readonly Uint8Array[]> {
  let failure: RingTmpError | undefined;
  for (const mirror of mirrors) {
    try {
      const chunks = await fetchFile(mirror + name, name, options);
      const found = md5Of(chunks);
      if (found === md5) return chunks;
      throw new DataError(`${mirror}${name} has the MD5 ${found}, expected ${md5}`, "try again later");
    } catch (error) {
      if (options.signal?.aborted)
        throw new InterruptedError(`the download of ${name} was interrupted`, "start it again");
      if (!(error instanceof RingTmpError)) throw error;
      failure = error;
    }
  }
  throw failure ?? new NetworkError(`no mirror is known for ${name}`, "copy the file into the folder by hand");
}

async function fetchFile(url: string, name: string, options: DownloadOptions): Promise<readonly Uint8Array[]> {
  const silence = new AbortController();
  const timer = setTimeout(() => silence.abort(new Error(`silent for ${SILENCE_MS_MAX / 1_000} s`)), SILENCE_MS_MAX);
  const signal = AbortSignal.any([silence.signal, ...(options.signal ? [options.signal] : [])]);
  const chunks: Uint8Array[] = [];
  let receivedBytes = 0;
  try {
    const response = await (options.fetch ?? fetch)(url, { signal });
    if (!response.ok || response.body === null) throw new Error(`status ${response.status}`);
    for await (const chunk of response.body) {
      timer.refresh();
      chunks.push(chunk);
      receivedBytes += chunk.length;
      if (receivedBytes > FILE_BYTES_MAX) throw new Error(`more than ${FILE_BYTES_MAX} bytes`);
      options.onProgress?.({ file: name, receivedBytes });
    }
    return chunks;
  } catch (error) {
    const remedy = "check the network, or copy the files into a folder by hand and name it with --data-dir";
    throw new NetworkError(`cannot download ${url}: ${causeOf(error)}`, remedy, { cause: error });
  } finally {
    clearTimeout(timer);
  }
}

async function writeWhole(dataDir: string, path: string, chunks: readonly Uint8Array[]): Promise<void> {
  const temporary = `${path}.${randomUUID()}.part`;
  try {
    await mkdir(dataDir, { recursive: true });
    await writeFile(temporary, chunks);
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true }).catch(() => undefined);
    throw new DataError(`cannot write ${path}: ${causeOf(error)}`, "name a folder with room with --data-dir", {
      cause: error,
    });
  }
}

function md5Of(chunks: readonly Uint8Array[]): string {
  const hash = createHash("md5");
  for (const chunk of chunks) hash.update(chunk);
  return hash.digest("hex");
}
