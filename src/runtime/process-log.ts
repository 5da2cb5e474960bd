/**
 * @file A process's log: JSON lines of pino in a file of bounded size. At the bound the file becomes `<file>.1` and a new one
 * begins, so that at most two are kept.
 */
import { closeSync, mkdirSync, openSync, renameSync, fstatSync, writeSync } from "node:fs";
import { dirname } from "node:path";
import { pino, type Logger } from "pino";

const LOG_BYTES_MAX = 4 * 1024 * 1024;

class BoundedFile {
  readonly #path: string;
  #file: number;
  #sizeBytes: number;

  constructor(path: string) {
    mkdirSync(dirname(path), { recursive: true });
    this.#path = path;
    this.#file = openSync(path, "a");
    this.#sizeBytes = fstatSync(this.#file).size;
  }

  write(line: string): void {
    if (this.#sizeBytes > LOG_BYTES_MAX) this.#rotate();
    this.#sizeBytes += writeSync(this.#file, line);
  }

  #rotate(): void {
    closeSync(this.#file);
    renameSync(this.#path, `${this.#path}.1`);
    this.#file = openSync(this.#path, "a");
    this.#sizeBytes = 0;
  }
}

export type { Logger };

export function openLog(path: string): Logger {
  return pino({ base: null, timestamp: pino.stdTimeFunctions.isoTime }, new BoundedFile(path));
}
