/**
 * @file Progress of a long command on standard error: one line that updates on a terminal, plain lines now and then
 * elsewhere. Standard output is for results.
 */
import { nowMs } from "../runtime/clock.ts";

const TERMINAL_INTERVAL_MS = 100;
const PLAIN_INTERVAL_MS = 2_000;

export class Progress {
  readonly #isQuiet: boolean;
  readonly #isTerminal = process.stderr.isTTY;
  #startedMs: number | undefined;
  #startedStep = 0;
  #shownMs = 0;
  #hasLine = false;

  constructor(isQuiet: boolean) {
    this.#isQuiet = isQuiet;
  }

  /** A line that stays. */
  say(text: string): void {
    if (this.#isQuiet) return;
    this.#clear();
    process.stderr.write(`${text}\n`);
  }

  /** Something that is being waited for. */
  waiting(text: string): void {
    if (this.#isQuiet) return;
    if (this.#isTerminal) this.#draw(text);
    else process.stderr.write(`${text}\n`);
  }

  step(step: number, steps: number, loss: number): void {
    if (this.#isQuiet) return;
    const now = nowMs();
    if (this.#startedMs === undefined) {
      this.#startedMs = this.#shownMs = now;
      this.#startedStep = step;
      return;
    }
    const isLast = step + 1 === steps;
    if (!isLast && now - this.#shownMs < (this.#isTerminal ? TERMINAL_INTERVAL_MS : PLAIN_INTERVAL_MS)) return;
    this.#shownMs = now;
    const rate = (step - this.#startedStep) / ((now - this.#startedMs) / 1000);
    const left = formatSeconds((steps - step - 1) / rate);
    const text = `step ${step + 1}/${steps}  loss ${loss.toFixed(4)}  ${rate.toFixed(1)} steps/s  ${left} left`;
    if (this.#isTerminal) this.#draw(text);
    else process.stderr.write(`${text}\n`);
  }

  /** Ends the updating line. */
  end(): void {
    this.#clear();
  }

  #draw(text: string): void {
    process.stderr.write(`\r\u001b[K${text.slice(0, (process.stderr.columns ?? 80) - 1)}`);
    this.#hasLine = true;
  }

  #clear(): void {
    if (this.#hasLine) process.stderr.write("\r\u001b[K");
    this.#hasLine = false;
  }
}

/** For what a full or broken disk did not take, or does not give back. */
export function notDurableText(step: number, reason: string): string {
  return `NOT DURABLE at step ${step}: ${reason}; the run goes on`;
}

export function formatSeconds(seconds: number): string {
  if (!Number.isFinite(seconds)) return "?";
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 120) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 120 ? `${minutes} min` : `${(minutes / 60).toFixed(1)} h`;
}

export function formatBytes(bytes: number): string {
  const mebibytes = bytes / (1024 * 1024);
  return mebibytes < 1024 ? `${mebibytes.toFixed(0)} MiB` : `${(mebibytes / 1024).toFixed(1)} GiB`;
}
