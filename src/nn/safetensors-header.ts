/**
 * @file The header of a safetensors file: hostile JSON to checked tensor descriptions, and back. Source: the format's
 * README, github.com/huggingface/safetensors. Limits: header 1 MB, rank 8. Stricter than the format asks: duplicate names,
 * unknown fields and gaps between tensors are errors.
 */

export const HEADER_BYTES_MAX = 1_000_000;
const RANK_MAX = 8;
const METADATA_NAME = "__metadata__";

const DTYPE_BYTES: ReadonlyMap<string, number> = new Map([
  ["F64", 8], ["F32", 4], ["F16", 2], ["BF16", 2], ["F8_E4M3", 1], ["F8_E5M2", 1],
  ["I64", 8], ["I32", 4], ["I16", 2], ["I8", 1], ["U64", 8], ["U32", 4], ["U16", 2], ["U8", 1], ["BOOL", 1],
]); // prettier-ignore

export interface TensorInfo {
  readonly name: string;
  readonly dtype: string;
  readonly shape: readonly number[];
  /** From the start of the data, which follows the header. */
  readonly offsetBytes: number;
  readonly sizeBytes: number;
}

export interface Header {
  /** In the order of their data. */
  readonly tensors: readonly TensorInfo[];
  readonly metadata: ReadonlyMap<string, string>;
}

/** What is wrong with a header; the reader of the file adds the file's name. */
export class HeaderFault extends Error {}

/** `dataBytes` is what the file holds after the header. Throws `HeaderFault`. */
export function parseHeader(bytes: Uint8Array, dataBytes: number): Header {
  const entries = Object.entries(parseObject(bytes));
  const metadata = entries.find(([name]) => name === METADATA_NAME);
  const tensors = entries
    .filter(([name]) => name !== METADATA_NAME)
    .map(([name, value]) => parseTensor(name, value))
    .toSorted((a, b) => a.offsetBytes - b.offsetBytes || a.sizeBytes - b.sizeBytes);
  let end = 0;
  for (const { name, offsetBytes, sizeBytes } of tensors) {
    fail(offsetBytes === end, `tensor ${name}: starts at offset ${offsetBytes}, not at ${end}`);
    end += sizeBytes;
  }
  fail(end === dataBytes, `the tensors end at offset ${end}, the data at ${dataBytes}`);
  return { tensors, metadata: parseMetadata(metadata === undefined ? {} : metadata[1]) };
}

/** The bytes of a header, padded with spaces so that the data begins at a multiple of 8. */
export function formatHeader({ tensors, metadata }: Header): Uint8Array {
  const entries: [string, unknown][] = tensors.map(({ name, dtype, shape, offsetBytes, sizeBytes }) => [
    name,
    { dtype, shape, data_offsets: [offsetBytes, offsetBytes + sizeBytes] },
  ]);
  const text = JSON.stringify(Object.fromEntries([[METADATA_NAME, Object.fromEntries(metadata)], ...entries]));
  const bytes = new TextEncoder().encode(text);
  const padded = new Uint8Array(Math.ceil(bytes.length / 8) * 8).fill(0x20);
  padded.set(bytes);
  return padded;
}

function parseObject(bytes: Uint8Array): Record<string, unknown> {
  let text: string;
  let value: unknown;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
    value = JSON.parse(text);
  } catch {
    throw new HeaderFault("the header is not JSON in UTF-8");
  }
  fail(text.startsWith("{") && isObject(value), "the header is not a JSON object");
  const duplicate = duplicateKey(text);
  fail(duplicate === undefined, `the name "${duplicate}" stands twice in the header`);
  return value;
}

/** The first key that an object of this valid JSON text has twice: `JSON.parse` keeps the last one silently. */
function duplicateKey(text: string): string | undefined {
  const open: Set<string>[] = [];
  for (const [token] of text.matchAll(/[{}]|"(?:[^"\\]|\\.)*"\s*:?/gs)) {
    if (token === "{") open.push(new Set());
    else if (token === "}") open.pop();
    else if (token.endsWith(":")) {
      const key = JSON.parse(token.slice(0, -1)) as string;
      const keys = open.at(-1);
      if (keys?.has(key)) return key;
      keys?.add(key);
    }
  }
  return undefined;
}

function parseTensor(name: string, value: unknown): TensorInfo {
  fail(isObject(value), `tensor ${name}: not an object`);
  const { dtype, shape, data_offsets: offsets, ...unknown } = value;
  fail(Object.keys(unknown).length === 0, `tensor ${name}: unknown field ${Object.keys(unknown)[0]}`);
  const elementBytes = typeof dtype === "string" ? DTYPE_BYTES.get(dtype) : undefined;
  fail(elementBytes !== undefined, `tensor ${name}: unknown dtype ${JSON.stringify(dtype)}`);
  fail(isCounts(shape) && shape.length <= RANK_MAX, `tensor ${name}: bad shape ${JSON.stringify(shape)}`);
  fail(isCounts(offsets) && offsets.length === 2, `tensor ${name}: bad offsets ${JSON.stringify(offsets)}`);
  const [begin, end] = offsets as [number, number];
  const needed = shape.reduce((product, size) => product * size, elementBytes);
  fail(end - begin === needed, `tensor ${name}: offset ${begin} to ${end} does not hold shape [${shape.join(", ")}]`);
  return { name, dtype: dtype as string, shape, offsetBytes: begin, sizeBytes: needed };
}

function parseMetadata(value: unknown): Map<string, string> {
  fail(isObject(value), "the metadata is not an object");
  const entries = Object.entries(value).map(([key, text]): [string, string] => {
    fail(typeof text === "string", `metadata ${key}: not a string`);
    return [key, text];
  });
  return new Map(entries);
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isCounts(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((item) => Number.isSafeInteger(item) && item >= 0);
}

function fail(condition: boolean, message: string): asserts condition {
  if (!condition) throw new HeaderFault(message);
}
