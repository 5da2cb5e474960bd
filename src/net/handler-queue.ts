/** @file Frames that were received and wait for the handler, which sees one at a time, in order. */
import { HEADER_BYTES } from "../wire/header.ts";
import type { Frame } from "../wire/decoder.ts";

export type FrameHandler = (frame: Frame) => void | Promise<void>;

export interface HandlerQueueEvents {
  /** A frame has been handled; its bytes, header included, may be granted. */
  readonly processed: (bytes: number) => void;
  readonly failed: (error: unknown) => void;
  /** After `finish()`: the last frame has been handled. */
  readonly drained: () => void;
}

/** Bounded by the receive window: the link refuses frames beyond it before they come here. */
export class HandlerQueue {
  readonly #handle: FrameHandler;
  readonly #events: HandlerQueueEvents;
  readonly #waiting: Frame[] = [];
  #isBusy = false;
  #isFinishing = false;
  #isStopped = false;

  constructor(handle: FrameHandler, events: HandlerQueueEvents) {
    this.#handle = handle;
    this.#events = events;
  }

  push(frame: Frame): void {
    this.#waiting.push(frame);
    if (!this.#isBusy) this.#run();
  }

  /** Nothing more will be pushed. */
  finish(): void {
    this.#isFinishing = true;
    if (!this.#isBusy && !this.#isStopped) this.#events.drained();
  }

  /** Forgets what waits; a handler that runs is not interrupted, and its outcome does not matter. */
  stop(): void {
    this.#isStopped = true;
    this.#waiting.length = 0;
  }

  /** Handles frames until one takes its time; a handler that answers at once costs no turn of the event loop. */
  #run(): void {
    for (let frame = this.#waiting.shift(); frame !== undefined; frame = this.#waiting.shift()) {
      const bytes = HEADER_BYTES + frame.payload.byteLength;
      let outcome: void | Promise<void>;
      this.#isBusy = true;
      try {
        outcome = this.#handle(frame);
      } catch (error) {
        this.#fail(error);
        return;
      }
      if (outcome !== undefined) {
        outcome.then(
          () => this.#continue(bytes),
          (error: unknown) => this.#fail(error),
        );
        return;
      }
      this.#isBusy = false;
      if (!this.#isStopped) this.#events.processed(bytes);
    }
    if (this.#isFinishing && !this.#isStopped) this.#events.drained();
  }

  #continue(bytes: number): void {
    this.#isBusy = false;
    if (this.#isStopped) return;
    this.#events.processed(bytes);
    this.#run();
  }

  #fail(error: unknown): void {
    if (this.#isStopped) return;
    this.stop();
    this.#events.failed(error);
  }
}
