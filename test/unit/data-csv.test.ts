/** @file Tables: what is read, how it is split, and which line and column an error names. */
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { loadCsv } from "../../src/data/csv.ts";
import type { DataSet, Split } from "../../src/data/dataset.ts";
import { failureOf } from "../helpers/failures.ts";

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "ringtmp-csv-"));
});
afterEach(() => rm(folder, { recursive: true }));

async function load(text: string): Promise<DataSet> {
  const path = join(folder, "table.csv");
  await writeFile(path, text);
  return loadCsv(path);
}

function rowsOf(split: Split, features: number): number[][] {
  return Array.from({ length: split.count }, (_, sample) => {
    const into = new Float32Array(features + 2).fill(-9);
    split.fill(sample, into, 1);
    expect([into[0], into.at(-1)]).toEqual([-9, -9]);
    return [...into.subarray(1, -1), split.labels[sample]!];
  });
}

const lines = Array.from({ length: 40 }, (_, row) => `${row},${row / 8},${-row}.5e-1,${row % 3}`);

describe("loadCsv", () => {
  it("splits all lines 80/20, each once, in file order, with their labels", async () => {
    const data = await load(lines.join("\n"));
    expect(data).toMatchObject({ features: 3, classes: 3 });
    const [train, test] = [rowsOf(data.train, 3), rowsOf(data.test, 3)];
    expect([train.length, test.length]).toEqual([32, 8]);
    const expected = lines.map((line) => line.split(",").map((cell) => Math.fround(Number(cell))));
    expect([...train, ...test].toSorted((a, b) => a[0]! - b[0]!)).toEqual(expected);
    for (const rows of [train, test])
      expect(rows.map((row) => row[0])).toEqual(rows.map((row) => row[0]!).toSorted((a, b) => a - b));
    expect(test.map((row) => row[0]).join()).toBe("4,5,15,17,23,32,36,38");
  });

  it.each([
    ["a header", `a,b,c,label\n${lines.join("\n")}\n`],
    ["a header with one name", `0,1,2,label\n${lines.join("\n")}\n`],
    ["Windows line ends", `${lines.join("\r\n")}\r\n`],
    ["a byte order mark, blanks and empty lines at the end", `\uFEFF${lines.join("\n").replaceAll(",", " , ")}\n\n \n`],
  ])("reads the same samples with %s", async (_, text) => {
    const plain = await load(lines.join("\n"));
    const data = await load(text);
    for (const split of ["train", "test"] as const) expect(rowsOf(data[split], 3)).toEqual(rowsOf(plain[split], 3));
    expect(data.sha256).not.toBe(plain.sha256);
  });

  it("reads the densest table there is, and checks indices", async () => {
    const data = await load("1,0\n2,1\n3,0\n4,1\n5,0");
    const all = [...rowsOf(data.train, 1), ...rowsOf(data.test, 1)].toSorted((a, b) => a[0]! - b[0]!);
    expect(all.join(";")).toBe("1,0;2,1;3,0;4,1;5,0");
    expect(() => data.train.fill(4, new Float32Array(1), 0)).toThrow("no sample 4 among 4");
  });

  const good = "1,2,0\n3,4,1\n";
  it.each([
    ["", "table.csv: the file is empty"],
    ["\n\n", "table.csv: the file is empty"],
    ["x,y,label\n", "table.csv: there is no line behind the header"],
    [`${good}1,2\n`, "line 3: expected 3 columns, found 2"],
    [`${good}1,2,3,0\n`, "line 3: expected 3 columns, found 4"],
    [`x,y,label\n${good}\n1,2,0\n`, "line 4: the line is empty"],
    ["1\n2\n", "line 1: the line has one column only"],
    [`${good}1,NaN,0\n`, 'line 3, column 2: expected a finite number, found "NaN"'],
    ["1,nan,0\n1,2,0\n", 'line 1, column 2: expected a finite number, found "nan"'],
    [`,2,0\n${good}`, 'line 1, column 1: expected a finite number, found ""'],
    [`${good}Infinity,2,0\n`, 'line 3, column 1: expected a finite number, found "Infinity"'],
    [`${good}1e39,2,0\n`, 'line 3, column 1: expected a finite number, found "1e39"'],
    [`${good}0x10,2,0\n`, 'line 3, column 1: expected a finite number, found "0x10"'],
    [`${good}1,2,0.5\n`, "line 3, column 3: expected a class as an integer in 0..65535, found 0.5"],
    [`${good}1,2,-1\n`, "line 3, column 3: expected a class as an integer in 0..65535, found -1"],
    [`${good}1,2,65536\n`, "line 3, column 3: expected a class as an integer in 0..65535, found 65536"],
    [good, "table.csv: expected at least 5 samples, found 2"],
    [`${"1,".repeat(100)}0\n${"\n".repeat(1_000)}1,0\n`, "line 2: the line is empty"],
  ])("names what is wrong in %j", async (text, message) => {
    const failure = await failureOf(load(text));
    expect(failure).toMatch(/^DataError: .* \| each line holds/);
    expect(failure).toContain(message);
  });

  it("says when there is no such file", async () => {
    expect(await failureOf(loadCsv(join(folder, "none.csv")))).toMatch(
      /^DataError: cannot read .*none\.csv: no such file/,
    );
  });
});
