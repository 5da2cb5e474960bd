/**
 * @file The main thread's side of the compute thread: it starts the worker over shared memory and passes it one operation
 * at a time. Operations have no time limit, since their length is the model's; a worker that dies rejects the one under
 * way.
 */
import { MessageChannel, type MessagePort, receiveMessageOnPort, Worker } from "node:worker_threads";
import type { EngineKind } from "../engine/contract.ts";
import { loadKernels } from "../engine/load.ts";
import { EngineMemory } from "../engine/memory.ts";
import { fillBlocks } from "../nn/blocks.ts";
import { planSegment, planSegments, type SegmentInit, type SegmentLayout, segmentMemory } from "../nn/layout.ts";
import { assert } from "../types/assert.ts";
import { InterruptedError } from "../types/errors.ts";
import {
  type ComputeInit, type Operation, type OperationKind, type OperationResult, receivedError, type Reply,
} from "./compute-operations.ts"; // prettier-ignore
import type { WorkerInit } from "./compute-worker.ts";

/** The layout of a segment that is alone on an engine. Throws `UsageError` as `planSegment` does. */
export function planOn(engine: EngineKind, segment: SegmentInit): SegmentLayout {
  return planSegment(segment, loadKernels(engine, new EngineMemory(0).memory));
}

export class ComputeThread {
  /** One for each lap. */
  readonly layouts: readonly SegmentLayout[];
  /** Shared with the worker: between `run` and its result, the arrays that the operation uses belong to the worker. */
  readonly memory: EngineMemory;
  readonly #worker: Worker;
  readonly #port: MessagePort;
  /** int32: [operations sent, replies sent], the start's reply included. */
  readonly #turns = new Int32Array(new SharedArrayBuffer(8));
  /** Replies received. */
  #received = 0;
  #rejectPending: ((error: Error) => void) | null = null;
  #ended: Error | null = null;
  #step = 0;

  private constructor({ segments, engine, restore = [], blocks, pace }: ComputeInit) {
    assert(restore.length === 0 || blocks === undefined, "the state comes from files or from memory");
    this.layouts = planSegments(segments, loadKernels(engine, new EngineMemory(0).memory));
    this.memory = segmentMemory(this.layouts);
    if (blocks !== undefined) fillBlocks(blocks.layers, this.layouts, this.memory);
    const { port1, port2 } = new MessageChannel();
    this.#port = port1;
    const workerData: WorkerInit = {
      segments, engine, restore, memory: this.memory.memory, port: port2,
      turns: this.#turns, filledStep: blocks?.step ?? null, pace: pace ?? null,
    }; // prettier-ignore
    this.#worker = new Worker(new URL("./compute-worker.ts", import.meta.url), { workerData, transferList: [port2] });
    this.#worker.on("error", (error) => this.#end(error as Error));
    this.#worker.on("exit", (code) => this.#end(new Error(`the compute thread ended with code ${code}`)));
  }

  /** Throws what reading the restored shards, filling the blocks or planning the segments throws. Stop the thread in the end. */
  static async start(init: ComputeInit): Promise<ComputeThread> {
    const thread = new ComputeThread(init);
    try {
      thread.#step = (await thread.#reply<{ step: number }>()).step;
    } catch (error) {
      await thread.stop();
      throw error;
    }
    return thread;
  }

  /** The step that came next at the start: 0, or the restored state's. */
  get startStep(): number {
    return this.#step;
  }

  /** Runs one operation; not before the last one is done. Rejects with the error of its class that the worker threw. */
  run<Kind extends OperationKind>(operation: Extract<Operation, { kind: Kind }>): Promise<OperationResult<Kind>> {
    assert(this.#rejectPending === null, "one operation at a time");
    if (this.#ended !== null) return Promise.reject(this.#ended);
    this.#port.postMessage(operation);
    Atomics.add(this.#turns, 0, 1);
    Atomics.notify(this.#turns, 0);
    return this.#reply<OperationResult<Kind>>();
  }

  /** Ends the thread, whatever it does; an operation under way rejects with `InterruptedError`. */
  async stop(): Promise<void> {
    this.#end(new InterruptedError("the compute thread was stopped", "start the job again to go on"));
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
        // Not at once even where the reply is there already: a second `run` must always find the first under way. The notice
        // of the reply before may come late and end this wait: only the count says that a reply is there.
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
