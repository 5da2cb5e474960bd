/**
 * @file The main thread's line to a worker of its own: one message at a time, one reply to each. The worker boots at once, so a
 * channel that is made before it is known what to compute saves its start the wait, about 50 ms.
 */
import { MessageChannel, type MessagePort, receiveMessageOnPort, Worker } from "node:worker_threads";
import { assert } from "../types/assert.ts";
import { type Operation, receivedError, type Reply } from "./compute-operations.ts";
import type { WorkerInit, WorkerPort } from "./compute-worker.ts";

export class ComputeChannel {
  readonly #worker: Worker;
  readonly #port: MessagePort;
  /** int32: [messages sent, replies sent]. */
  readonly #turns = new Int32Array(new SharedArrayBuffer(8));
  /** Replies received. */
  #received = 0;
  #rejectPending: ((error: Error) => void) | null = null;
  #ended: Error | null = null;

  /** Close the channel in the end, used or not. */
  constructor() {
    const { port1, port2 } = new MessageChannel();
    this.#port = port1;
    const workerData: WorkerPort = { port: port2, turns: this.#turns };
    this.#worker = new Worker(new URL("./compute-worker.ts", import.meta.url), { workerData, transferList: [port2] });
    this.#worker.on("error", (error) => this.#end(error as Error));
    this.#worker.on("exit", (code) => this.#end(new Error(`the compute thread ended with code ${code}`)));
  }

  get hasEnded(): boolean {
    return this.#ended !== null;
  }

  /** Sends, not before the last reply is there. Rejects with the error that the worker threw, or that ended it. */
  request<Value>(message: WorkerInit | Operation): Promise<Value> {
    assert(this.#rejectPending === null, "one message at a time");
    if (this.#ended !== null) return Promise.reject(this.#ended);
    this.#port.postMessage(message);
    Atomics.add(this.#turns, 0, 1);
    Atomics.notify(this.#turns, 0);
    return this.#reply<Value>();
  }

  /** Ends the worker, whatever it does; a request under way rejects with `reason`, as do later ones. */
  async close(reason: Error): Promise<void> {
    this.#end(reason);
    await this.#worker.terminate();
    this.#port.close();
  }

  #reply<Value>(): Promise<Value> {
    return new Promise((resolve, reject) => {
      this.#rejectPending = reject;
      const take = (): void => {
        if (this.#ended !== null) return;
        const reply = receiveMessageOnPort(this.#port)?.message as Reply<Value>;
        this.#received++;
        this.#rejectPending = null;
        if (reply.ok) resolve(reply.value);
        else reject(receivedError(reply.error));
      };
      const wait = (): void => {
        const { value } = Atomics.waitAsync(this.#turns, 1, this.#received);
        // The notice of the reply before may come late and end this wait: only the count says that a reply is there.
        void Promise.resolve(value).then(() => (Atomics.load(this.#turns, 1) === this.#received ? wait() : take()));
      };
      wait();
    });
  }

  #end(error: Error): void {
    this.#ended ??= error;
    this.#rejectPending?.(this.#ended);
    this.#rejectPending = null;
  }
}
