/**
 * @file The values of one shard: parameters, the function's states, sums of steps that are not whole, and what was pushed and is still wanted.
 * It does what the shard's machine says. The work is elementwise, about a nanosecond a key, less than the message costs that brings it: it is done
 * where the message is handled, and needs no thread of its own.
 */
import type { EngineKind, Kernels } from "../../src/engine/contract.ts";
import { loadKernels } from "../../src/engine/load.ts";
import { EngineMemory } from "../../src/engine/memory.ts";
import { assert, defined } from "../../src/types/assert.ts";
import { type KeyRange, placeOf, type RangeSet } from "../core/ranges.ts";
import type { RequestId, ShardOutput } from "../core/shard.ts";
import { PushMemory } from "./push-memory.ts";
import type { KeyBlock, ServerFunction, ServerFunctions } from "./server-functions.ts";

/** What a push carries for the keys that it speaks of: each key's value in turn, or those of some keys only. */
export type Values =
  /** In memory that the store has given. */
  | { readonly kind: "dense"; readonly range: KeyRange; readonly values: Float32Array }
  /** Keys in ascending order, and as many values; the others are zero. */
  | { readonly kind: "sparse"; readonly keys: Uint32Array; readonly values: Float32Array };

export interface StoreInit {
  readonly range: KeyRange;
  readonly engine: EngineKind;
  readonly functions: ServerFunctions;
  /** Name of the server function. */
  readonly function: string;
  readonly rate: number;
}

/** Outputs that change values. */
export type ValueOutput = Extract<ShardOutput, { kind: "add" | "forget" | "updateStep" | "updatePush" | "stepOver" }>;

export class ShardStore {
  readonly #range: KeyRange;
  readonly #memory = new EngineMemory(0);
  readonly #pushMemory = new PushMemory(this.#memory);
  readonly #kernels: Kernels;
  readonly #function: ServerFunction;
  readonly #parameters: Float32Array;
  readonly #states: readonly Float32Array[];
  /** By step. */
  readonly #sums = new Map<number, Float32Array>();
  /** Zero, for the next step. */
  readonly #freeSums: Float32Array[] = [];
  readonly #pushes = new Map<string, Values>();

  constructor({ range, engine, functions, function: name, rate }: StoreInit) {
    this.#range = range;
    this.#kernels = loadKernels(engine, this.#memory.memory);
    this.#function = functions.make(name, this.#kernels, rate);
    this.#parameters = this.#allocate();
    this.#states = this.#function.stateNames.map(() => this.#allocate());
  }

  get stateNames(): readonly string[] {
    return this.#function.stateNames;
  }

  /** Bytes of parameters, states and sums. */
  get sizeBytes(): number {
    const arrays = 1 + this.#states.length + this.#sums.size + this.#freeSums.length;
    return 4 * arrays * this.#parameters.length;
  }

  /** For the values of a range, until they are forgotten. */
  place(sizeBytes: number): Uint8Array {
    return this.#pushMemory.take(sizeBytes);
  }

  isFinite({ kind, values }: Values): boolean {
    return kind === "dense"
      ? this.#kernels.firstNotFinite(values.byteOffset, values.length) < 0
      : values.every((value) => Number.isFinite(value));
  }

  /** Keeps a push's values, which are the store's from now on, until the machine says `forget`. */
  keep(id: RequestId, values: Values): void {
    this.#pushes.set(nameOf(id), values);
  }

  #forget(id: RequestId): void {
    const pushed = this.#pushes.get(nameOf(id));
    if (pushed?.kind === "dense") this.#pushMemory.giveBack(pushed.values);
    this.#pushes.delete(nameOf(id));
  }

  do(output: ValueOutput): void {
    switch (output.kind) {
      case "add":
        return this.#add(output, output.keys, this.#sumOf(output.step));
      case "forget":
        return this.#forget(output);
      case "updateStep":
        return this.#updateStep(output.step, output.keys, output.update);
      case "updatePush":
        return this.#updatePush(output, output.keys, output.update);
      case "stepOver":
        return this.#freeSum(output.step);
    }
  }

  /** A copy of parameters, which is the caller's. @param part 0: the parameters; from 1 on: the function's states */
  read({ start, end }: KeyRange, part = 0): Float32Array<ArrayBuffer> {
    const array = part === 0 ? this.#parameters : defined(this.#states[part - 1], `state ${part - 1} is there`);
    return new Float32Array(array.subarray(start - this.#range.start, end - this.#range.start));
  }

  readKeys(keys: Uint32Array): Float32Array<ArrayBuffer> {
    return Float32Array.from(keys, (key) => this.#parameters[key - this.#range.start]!);
  }

  /** Before the first push. */
  fill({ start, end }: KeyRange, values: Float32Array, part = 0): void {
    assert(values.length === end - start, "a value for each key");
    const array = part === 0 ? this.#parameters : defined(this.#states[part - 1], `state ${part - 1} is there`);
    array.set(values, start - this.#range.start);
  }

  #allocate(): Float32Array {
    return this.#memory.f32(this.#memory.allocate([this.#range.end - this.#range.start]));
  }

  #sumOf(step: number): Float32Array {
    const sum = this.#sums.get(step) ?? this.#freeSums.pop() ?? this.#allocate();
    this.#sums.set(step, sum);
    return sum;
  }

  #add(id: RequestId, keys: RangeSet, sum: Float32Array): void {
    const pushed = defined(this.#pushes.get(nameOf(id)), "the push's values are kept");
    const first = this.#range.start;
    for (const { start, end } of keys) {
      if (pushed.kind === "dense") {
        const places = pushed.values.subarray(start - pushed.range.start, end - pushed.range.start);
        this.#kernels.addBias(sum.byteOffset + 4 * (start - first), places.byteOffset, 1, places.length);
        continue;
      }
      const { keys: single, values } = pushed;
      for (let place = placeOf(single, start); place < single.length && single[place]! < end; place += 1) {
        sum[single[place]! - first]! += values[place]!;
      }
    }
  }

  #updateStep(step: number, keys: RangeSet, update: number): void {
    const sum = defined(this.#sums.get(step), `step ${step} has a sum`);
    for (const range of keys) this.#function.update(this.#block(range, sum), update);
  }

  /** It is zero, and serves another step. */
  #freeSum(step: number): void {
    const sum = this.#sums.get(step);
    if (sum === undefined) return;
    this.#sums.delete(step);
    this.#freeSums.push(sum);
  }

  #updatePush(id: RequestId, keys: RangeSet, update: number): void {
    const pushed = defined(this.#pushes.get(nameOf(id)), "the push's values are kept");
    if (pushed.kind === "dense") {
      // Each key of a push is used once, so that the function may set it to zero.
      const { values, range } = pushed;
      for (const keyRange of keys) this.#function.update(this.#block(keyRange, values, range.start), update);
      return;
    }
    const scratch = this.#freeSums.pop() ?? this.#allocate();
    this.#add(id, keys, scratch);
    for (const range of keys) this.#function.update(this.#block(range, scratch), update);
    this.#freeSums.push(scratch);
  }

  /** @param first the key of the gradient's first value */
  #block({ start, end }: KeyRange, gradient: Float32Array, first = this.#range.start): KeyBlock {
    const [from, to] = [start - this.#range.start, end - this.#range.start];
    return {
      weights: this.#parameters.subarray(from, to),
      gradient: gradient.subarray(start - first, end - first),
      states: this.#states.map((state) => state.subarray(from, to)),
    };
  }
}

function nameOf({ client, timestamp }: RequestId): string {
  return `${client} ${timestamp}`;
}
