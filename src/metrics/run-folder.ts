/**
 * @file The folder of one run: creates it, or opens it to go on, and writes its files so that a reader never sees a torn one.
 * Lines are appended one by one; whole files are written beside and renamed.
 */
import {
  accessSync,
  appendFileSync,
  closeSync,
  constants,
  existsSync,
  fstatSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readFileSync,
  readSync,
  readdirSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { dirname, join, resolve } from "node:path";
import { DataError, UsageError } from "../types/errors.ts";

export const RUN_FILES = {
  config: "config.json",
  environment: "environment.json",
  metrics: "metrics.jsonl",
  events: "events.jsonl",
  /** Of a parameter server. */
  history: "history.jsonl",
  summary: "summary.json",
  trace: "trace.json",
  job: "job.json",
} as const;

const RUN_FOLDERS = ["timeline", "checkpoints", "logs"];
/** Identities and votes of the nodes on this machine. */
export const STATE_FOLDER = "state";
/** What was drawn from a run goes with it. */
const FIGURES_FOLDER = "figures";

/** More than a line of `metrics.jsonl`, and how each of them begins. */
const TAIL_BYTES = 1024;
const LINE_BEGIN = '{"step":';

/** One committed step, a line of `metrics.jsonl`. */
export interface MetricsLine {
  readonly step: number;
  readonly loss: number;
  readonly samples: number;
  readonly elapsedMs: number;
  readonly view: number;
}

export class RunFolder {
  readonly path: string;

  constructor(path: string) {
    this.path = resolve(path);
  }

  /**
   * An empty folder for a new run. One that holds another run is replaced where `force` says so; one that holds
   * anything else is never touched.
   */
  static create(path: string, force: boolean): RunFolder {
    RunFolder.check(path, force);
    const folder = new RunFolder(path);
    for (const name of [...Object.values(RUN_FILES), ...RUN_FOLDERS, FIGURES_FOLDER]) {
      rmSync(join(folder.path, name), { recursive: true, force: true });
    }
    try {
      for (const name of RUN_FOLDERS) mkdirSync(join(folder.path, name), { recursive: true });
    } catch (cause) {
      throw new UsageError(`--out ${folder.path} cannot be made`, "name a folder that you may write to", { cause });
    }
    return folder;
  }

  /** Throws UsageError where `create` would, and changes nothing. */
  static check(path: string, force: boolean): void {
    const folder = new RunFolder(path);
    if (existsSync(folder.path)) folder.#checkContent(force);
    let present = folder.path;
    while (!existsSync(present)) present = dirname(present);
    try {
      accessSync(`${present}/.`, constants.W_OK | constants.X_OK);
    } catch (cause) {
      throw new UsageError(`--out ${folder.path}: ${present} cannot be written to`, "name another folder", { cause });
    }
  }

  #checkContent(force: boolean): void {
    let names: string[];
    try {
      names = readdirSync(this.path);
    } catch (cause) {
      throw new UsageError(`--out ${this.path} is not a folder`, "name another folder", { cause });
    }
    // Who the nodes are outlives their runs.
    if (names.every((name) => name === STATE_FOLDER)) return;
    if (!names.includes(RUN_FILES.config)) {
      throw new UsageError(
        `--out ${this.path} holds something that is not a run`,
        "name another folder, or empty it yourself",
      );
    }
    if (!force) {
      throw new UsageError(
        `--out ${this.path} holds another run`,
        "name another folder, or replace that run with --force",
      );
    }
  }

  file(...names: readonly string[]): string {
    return join(this.path, ...names);
  }

  /** Replaces a whole file at once. */
  writeJson(name: string, value: unknown): void {
    const temporary = this.file(`.${name}.tmp`);
    writeFileSync(temporary, `${JSON.stringify(value, null, 2)}\n`);
    renameSync(temporary, this.file(name));
  }

  appendLines(name: string, values: readonly unknown[]): void {
    if (values.length === 0) return;
    appendFileSync(this.file(name), values.map((value) => `${JSON.stringify(value)}\n`).join(""));
  }

  readJson(name: string): unknown {
    const file = this.file(name);
    let text: string;
    try {
      text = readFileSync(file, "utf8");
    } catch (cause) {
      throw new DataError(`${file} cannot be read`, "name the folder that a run wrote (its --out)", { cause });
    }
    try {
      return JSON.parse(text);
    } catch (cause) {
      throw new DataError(`${file} is not JSON`, "it was changed or cut: run again, or restore it", { cause });
    }
  }

  /** Complete lines of a file that may not be there; a torn last line is left out. */
  readLines(name: string): readonly unknown[] {
    const file = this.file(name);
    if (!existsSync(file)) return [];
    return readFileSync(file, "utf8")
      .split("\n")
      .slice(0, -1)
      .map((line, index): unknown => parseLine(line, file, index + 1));
  }

  /**
   * The steps from the first on, each as it was written first. 1. A writer is stopped, and another process writes in its place. 2. It goes on,
   * and both write for a moment. 3. Some steps stand there twice.
   */
  readMetrics(): readonly MetricsLine[] {
    const lines: MetricsLine[] = [];
    for (const line of this.readLines(RUN_FILES.metrics) as readonly MetricsLine[]) {
      if (line.step === lines.length) lines.push(line);
    }
    return lines;
  }

  /** Keeps the metrics of the steps below `step`: a resumed run goes on there, and a torn last line is cut. */
  cutMetrics(step: number): readonly MetricsLine[] {
    const lines = this.readMetrics().slice(0, step);
    if (lines.length < step) {
      const file = this.file(RUN_FILES.metrics);
      throw new DataError(`${file} does not hold steps 0 to ${step - 1}`, "resume from a folder whose files are whole");
    }
    this.writeLines(RUN_FILES.metrics, lines);
    return lines;
  }

  /** Replaces a file of lines: beside and renamed, since a crash in between must not lose it. */
  writeLines(name: string, values: readonly unknown[]): void {
    const file = this.file(name);
    writeFileSync(`${file}.tmp`, values.map((value) => `${JSON.stringify(value)}\n`).join(""));
    renameSync(`${file}.tmp`, file);
  }

  /** The step that `metrics.jsonl` lacks next, as its last whole line says. */
  nextStep(): number {
    return stepAfter(this.cutTornLine(RUN_FILES.metrics));
  }

  /**
   * Cuts half a line at a file's end, which a writer that was killed may have left. Returns the end of what is whole. No more is read: the file
   * may be long, and whoever takes it over has others to answer.
   */
  cutTornLine(name: string): string {
    const file = this.file(name);
    if (!existsSync(file)) return "";
    const descriptor = openSync(file, "r+");
    try {
      for (let sizeBytes = fstatSync(descriptor).size; sizeBytes > 0;) {
        const tail = Buffer.alloc(Math.min(sizeBytes, TAIL_BYTES));
        readSync(descriptor, tail, 0, tail.length, sizeBytes - tail.length);
        const tornBytes = tail.length - (tail.lastIndexOf(10) + 1);
        sizeBytes -= tornBytes;
        if (tornBytes > 0) ftruncateSync(descriptor, sizeBytes);
        if (tornBytes < tail.length) return tail.toString("utf8", 0, tail.length - tornBytes);
      }
      return "";
    } finally {
      closeSync(descriptor);
    }
  }
}

/** Where damage hides the last step all are due again: readers take the first of each. */
function stepAfter(lines: string): number {
  const last = lines.lastIndexOf(LINE_BEGIN);
  return last < 0 ? 0 : Number.parseInt(lines.slice(last + LINE_BEGIN.length), 10) + 1;
}

/** The disk is full, broken or read-only: nothing that the program does wrong. */
export function isDiskFault(error: unknown): error is NodeJS.ErrnoException {
  const code = error instanceof Error && "code" in error ? String(error.code) : "";
  return ["ENOSPC", "EDQUOT", "EIO", "EROFS"].includes(code);
}

function parseLine(line: string, file: string, number: number): unknown {
  try {
    return JSON.parse(line);
  } catch (cause) {
    throw new DataError(`${file}: line ${number} is not JSON`, "it was changed or damaged: restore it, or run again", {
      cause,
    });
  }
}
