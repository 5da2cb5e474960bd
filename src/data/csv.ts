/**
 * @file Tables of numbers: a sample per line, finite numbers between commas, the last column the class as an integer
 * from 0. A first line with a name in it is a header. Four fifths of the lines, chosen without the job's seed, are the
 * training split. Features are used as they are. The whole table is held in memory as float32.
 */
import { createHash } from "node:crypto";
import { defined } from "../types/assert.ts";
import { DataError } from "../types/errors.ts";
import { RandomPurpose, RandomStream, shuffle } from "../types/random.ts";
import type { DataSet, Split } from "./dataset.ts";
import { readBounded } from "./files.ts";

const CSV_BYTES_MAX = 2 ** 30;
const CLASSES_MAX = 65_536;
const SAMPLES_MIN = 5;
const TEST_PARTS = 5;
/** Not the job's seed: every job tests on the same lines. */
const SPLIT_SEED = 0;
const LINE_FEED = 10;
const BLANK = 32;
const CELL_SHOWN_MAX = 40;
const NUMBER = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i;
/** Words for a number that is not there: a first line with one of them is a broken sample, not a header. */
const MISSING = /^([+-]?(nan|inf|infinity)|null|none|na|n\/a|\?)?$/i;

interface Table {
  /** [count, features] */
  readonly values: Float32Array;
  readonly labels: Int32Array;
  readonly features: number;
}

/** Reads a table; a DataError names the line and the column that are wrong. */
export async function loadCsv(path: string): Promise<DataSet> {
  const bytes = await readBounded(path, CSV_BYTES_MAX, "name a readable file of at most 1 GiB as csv:PATH");
  const table = parseTable(path, bytes);
  const order = Int32Array.from(table.labels.keys());
  shuffle(order, new RandomStream(SPLIT_SEED, RandomPurpose.csvSplit));
  const testCount = Math.floor(order.length / TEST_PARTS);
  return {
    name: `csv:${path}`,
    features: table.features,
    classes: table.labels.reduce((largest, label) => Math.max(largest, label), 1) + 1,
    sha256: createHash("sha256").update(bytes).digest("hex"),
    train: rows(table, order.subarray(testCount).toSorted()),
    test: rows(table, order.subarray(0, testCount).toSorted()),
  };
}

/** The split of the lines in `chosen`, in file order. */
function rows({ values, labels, features }: Table, chosen: Int32Array): Split {
  return {
    count: chosen.length,
    labels: chosen.map((row) => labels[row]!),
    fill(sample, into, offset) {
      const start = defined(chosen[sample], `no sample ${sample} among ${chosen.length}`) * features;
      into.set(values.subarray(start, start + features), offset);
    },
  };
}

function parseTable(path: string, bytes: Uint8Array): Table {
  const lines = linesOf(bytes);
  const first = lines.next().value;
  if (first === undefined) throw csvError(path, "the file is empty");
  const hasHeader = first.some((cell) => !NUMBER.test(cell) && !MISSING.test(cell));
  const firstRow = hasHeader ? lines.next().value : first;
  if (firstRow === undefined) throw csvError(path, "there is no line behind the header");
  const columns = firstRow.length;
  // A line of this many columns takes at least two bytes for each, so the file's size bounds what is allocated.
  const values = new Float32Array(Math.floor((bytes.length + 1) / (2 * columns)) * (columns - 1));
  const labels: number[] = [];
  let line = hasHeader ? 2 : 1;
  for (let cells: string[] | undefined = firstRow; cells !== undefined; cells = lines.next().value) {
    const here = `${path}, line ${line++}`;
    if (cells.length === 1)
      throw csvError(here, cells[0] === "" ? "the line is empty" : "the line has one column only");
    if (cells.length !== columns) throw csvError(here, `expected ${columns} columns, found ${cells.length}`);
    const row = cells.map((cell, column) => parseNumber(cell, `${here}, column ${column + 1}`));
    labels.push(checkLabel(row.pop()!, `${here}, column ${columns}`));
    values.set(row, (labels.length - 1) * (columns - 1));
  }
  if (labels.length < SAMPLES_MIN)
    throw csvError(path, `expected at least ${SAMPLES_MIN} samples, found ${labels.length}`);
  return { values, labels: Int32Array.from(labels), features: columns - 1 };
}

/** The cells of each line, without a byte order mark, blanks around a cell, and empty lines at the end. */
function* linesOf(bytes: Uint8Array): Generator<string[], undefined> {
  const decoder = new TextDecoder();
  let end = bytes.length;
  while (end > 0 && bytes[end - 1]! <= BLANK) end--;
  for (let start = 0; start < end;) {
    const feed = bytes.indexOf(LINE_FEED, start);
    const stop = feed < 0 || feed > end ? end : feed;
    yield decoder
      .decode(bytes.subarray(start, stop))
      .split(",")
      .map((cell) => cell.trim());
    start = stop + 1;
  }
  return undefined;
}

function parseNumber(cell: string, where: string): number {
  const value = NUMBER.test(cell) ? Math.fround(Number(cell)) : Number.NaN;
  if (!Number.isFinite(value))
    throw csvError(where, `expected a finite number, found "${cell.slice(0, CELL_SHOWN_MAX)}"`);
  return value;
}

function checkLabel(label: number, where: string): number {
  if (Number.isInteger(label) && label >= 0 && label < CLASSES_MAX) return label;
  throw csvError(where, `expected a class as an integer in 0..${CLASSES_MAX - 1}, found ${label}`);
}

function csvError(where: string, cause: string): DataError {
  const remedy = "each line holds finite numbers between commas, the last one the class as an integer from 0";
  return new DataError(`${where}: ${cause}`, remedy);
}
