/**
 * @file A process's log: JSON lines of pino in a file of bounded size. At the bound the file becomes `<file>.1` and a new one
 * begins, so that at most two are kept. A line that the disk does not take is dropped, since no run ends for its log.
 */
import * as node from "node:fs";
import { dirname } from "node:path";
import { pino, type Logger } from "pino";

const LOG_BYTES_MAX = 4 * 1024 * 1024;

/** What is asked of the system: tests inject its faults here. */
export interface LogDisk {
  readonly openSync: (file: string, flags: "a") => number;
  readonly closeSync: (file: number) => void;
  readonly renameSync: (from: string, to: string) => void;
  /** Returns how many bytes were written: not all, where the disk became full. */
  readonly writeSync: (file: number, bytes: Uint8Array) => number;
}

class BoundedFile {
  readonly #path: string;
  readonly #disk: LogDisk;
  #file: number;
  #sizeBytes: number;
  #isTorn = false;

  constructor(path: string, disk: LogDisk) {
    node.mkdirSync(dirname(path), { recursive: true });
    this.#path = path;
    this.#disk = disk;
    this.#file = disk.openSync(path, "a");
    this.#sizeBytes = node.fstatSync(this.#file).size;
  }

  /** Never throws: who logs that a disk is full must not end by it. The next line is tried again. */
  write(line: string): void {
    try {
      if (this.#sizeBytes > LOG_BYTES_MAX) this.#rotate();
      this.#append(Buffer.from(this.#isTorn ? `\n${line}` : line));
    } catch {
      // Nobody is left to tell.
    }
  }

  /** What the disk took only a part of ends with the line: those after it are whole. */
  #append(bytes: Buffer): void {
    const writtenBytes = this.#disk.writeSync(this.#file, bytes);
    this.#sizeBytes += writtenBytes;
    if (writtenBytes > 0) this.#isTorn = writtenBytes < bytes.length;
  }

  /** There is a file to write to all the time, whatever fails. */
  #rotate(): void {
    // Not there where a new one could not be opened the last time.
    if (node.existsSync(this.#path)) this.#disk.renameSync(this.#path, `${this.#path}.1`);
    const full = this.#file;
    this.#file = this.#disk.openSync(this.#path, "a");
    this.#sizeBytes = 0;
    this.#isTorn = false;
    this.#disk.closeSync(full);
  }
}

export type { Logger };

export function openLog(path: string, disk: LogDisk = node): Logger {
  return pino({ base: null, timestamp: pino.stdTimeFunctions.isoTime }, new BoundedFile(path, disk));
}
