/**
 * @file The values of one shard: parameters, the function's states, sums of steps that are not whole, and what was pushed and is still wanted.
 * It does what the shard's machine says. The work is elementwise, about a nanosecond a key, less than the message costs that brings it: it is done
 * where the message is handled, and needs no thread of its own.
 */
import { assert, defined } from "../../src/types/assert.ts";
import type { Update } from "../core/chain.ts";
import type { UpdateValues } from "../core/held-shard.ts";
import { type KeyRange, placeOf, type RangeSet } from "../core/ranges.ts";
import type { RequestId, ShardOutput } from "../core/shard-messages.ts";
import type { KeyBlock, ServerFunction } from "./server-functions.ts";
import type { KeyMemory } from "./key-memory.ts";

/** What a push carries for the keys that it speaks of: each key's value in turn, or those of some keys only. */
export type Values =
  /** In the server's memory. */
  | { readonly kind: "dense"; readonly range: KeyRange; readonly values: Float32Array }
  /** Keys in ascending order, and as many values; the others are zero. */
  | { readonly kind: "sparse"; readonly keys: Uint32Array; readonly values: Float32Array };

export interface StoreInit {
  readonly range: KeyRange;
  readonly memory: KeyMemory;
  /** Of this shard alone. */
  readonly function: ServerFunction;
  /** Whether parameters are kept as they were before their newest update: beside the newest. */
  readonly keepsBefore: boolean;
}

/** Outputs that change values. */
export type ValueOutput =
  | Extract<ShardOutput, { kind: "add" | "forget" | "stepOver" }>
  | (Extract<ShardOutput, { kind: "update" }> & { readonly values: UpdateValues<Float32Array> });

interface Kept {
  readonly values: Values;
  readonly release: () => void;
}

export class ShardStore {
  readonly #range: KeyRange;
  readonly #memory: KeyMemory;
  readonly #function: ServerFunction;
  readonly #parameters: Float32Array;
  readonly #before: Float32Array | undefined;
  readonly #states: readonly Float32Array[];
  /** By step. */
  readonly #sums = new Map<number, Float32Array>();
  readonly #pushes = new Map<string, Kept>();

  constructor({ range, memory, function: own, keepsBefore }: StoreInit) {
    this.#range = range;
    this.#memory = memory;
    this.#function = own;
    this.#parameters = this.#allocate();
    this.#states = own.stateNames.map(() => this.#allocate());
    this.#before = keepsBefore ? this.#allocate() : undefined;
  }

  get stateNames(): readonly string[] {
    return this.#function.stateNames;
  }

  /** All that is to be copied: parameters, states, and the parameters as they were before; of all keys of the shard, not copies. */
  get arrays(): readonly Float32Array[] {
    return [this.#parameters, ...this.#states, ...(this.#before === undefined ? [] : [this.#before])];
  }

  /**
   * Keeps a push's values until the machine says `forget`. What is kept already is kept once.
   * @param release called then
   */
  keep(id: RequestId, values: Values, release: () => void): void {
    if (this.#pushes.has(nameOf(id))) release();
    else this.#pushes.set(nameOf(id), { values, release });
  }

  #forget(id: RequestId): void {
    this.#pushes.get(nameOf(id))?.release();
    this.#pushes.delete(nameOf(id));
  }

  do(output: ValueOutput): void {
    switch (output.kind) {
      case "add":
        return this.#add(output, output.keys, this.#sumOf(output.step));
      case "forget":
        return this.#forget(output);
      case "update":
        return this.#update(output);
      case "stepOver":
        return this.#freeSum(output.step);
    }
  }

  /** Values of keys of an update, where they are: the caller uses them before it does the next output. @param keys those of `made`, or a part */
  valuesOf(made: Update, keys: KeyRange, from: UpdateValues<Float32Array>): Float32Array {
    switch (from.kind) {
      case "received":
        return from.received.subarray(keys.start - made.keys.start, keys.end - made.keys.start);
      case "sum":
        return this.#part(defined(this.#sums.get(made.step), `step ${made.step} has a sum`), keys);
      case "push": {
        const { values } = this.#pushed(from.push);
        if (values.kind === "dense") {
          return values.values.subarray(keys.start - values.range.start, keys.end - values.range.start);
        }
        const all = new Float32Array(keys.end - keys.start);
        this.#eachSingle(values, keys, (key, value) => (all[key - keys.start] = value));
        return all;
      }
    }
  }

  /**
   * Copies parameters to the caller's memory.
   * @param part 0: the parameters; from 1 on: the function's states
   * @param before keys of which the parameters before the newest update are meant
   */
  read({ start, end }: KeyRange, into: Float32Array, part = 0, before: RangeSet = []): void {
    const array = part === 0 ? this.#parameters : defined(this.#states[part - 1], `state ${part - 1} is there`);
    into.set(this.#part(array, { start, end }));
    for (const keys of part === 0 ? before : []) {
      into.set(this.#part(defined(this.#before, "parameters are kept"), keys), keys.start - start);
    }
  }

  readKeys(keys: Uint32Array, into: Float32Array): void {
    for (const [place, key] of keys.entries()) into[place] = this.#parameters[key - this.#range.start]!;
  }

  /** Before the first push. */
  fill({ start, end }: KeyRange, values: Float32Array, part = 0): void {
    assert(values.length === end - start, "a value for each key");
    const array = part === 0 ? this.#parameters : defined(this.#states[part - 1], `state ${part - 1} is there`);
    array.set(values, start - this.#range.start);
  }

  /** Nothing that was pushed is wanted any more. */
  reset(): void {
    for (const { release } of this.#pushes.values()) release();
    this.#pushes.clear();
    for (const sum of this.#sums.values()) this.#memory.free(sum.fill(0));
    this.#sums.clear();
  }

  /** Its memory serves others from now on. */
  close(): void {
    this.reset();
    for (const array of this.arrays) this.#memory.free(array.fill(0));
  }

  #allocate(): Float32Array {
    return this.#memory.zeros(this.#range.end - this.#range.start);
  }

  #part(array: Float32Array, { start, end }: KeyRange): Float32Array {
    return array.subarray(start - this.#range.start, end - this.#range.start);
  }

  #pushed(id: RequestId): Kept {
    return defined(this.#pushes.get(nameOf(id)), "the push's values are kept");
  }

  #sumOf(step: number): Float32Array {
    const sum = this.#sums.get(step) ?? this.#allocate();
    this.#sums.set(step, sum);
    return sum;
  }

  #add(id: RequestId, keys: RangeSet, sum: Float32Array): void {
    const { values: pushed } = this.#pushed(id);
    for (const range of keys) {
      if (pushed.kind === "sparse") {
        this.#eachSingle(pushed, range, (key, value) => (sum[key - this.#range.start]! += value));
        continue;
      }
      const places = pushed.values.subarray(range.start - pushed.range.start, range.end - pushed.range.start);
      this.#memory.kernels.addBias(this.#part(sum, range).byteOffset, places.byteOffset, 1, places.length);
    }
  }

  #eachSingle(
    { keys, values }: Extract<Values, { kind: "sparse" }>,
    { start, end }: KeyRange,
    use: (key: number, value: number) => void,
  ): void {
    for (let place = placeOf(keys, start); place < keys.length && keys[place]! < end; place += 1) {
      use(keys[place]!, values[place]!);
    }
  }

  #update({ made, keys, number, values }: Extract<ValueOutput, { kind: "update" }>): void {
    const isInMemory = values.kind !== "push" || this.#pushed(values.push).values.kind === "dense";
    for (const range of keys) {
      const gradient = this.valuesOf(made, range, values);
      if (this.#before !== undefined) this.#part(this.#before, range).set(this.#part(this.#parameters, range));
      if (isInMemory) this.#apply(range, gradient, number);
      else this.#applyFrom(range, gradient, number);
    }
  }

  #apply(range: KeyRange, gradient: Float32Array, number: number): void {
    const block: KeyBlock = {
      weights: this.#part(this.#parameters, range),
      // Each value is used once, so that the function may set it to zero.
      gradient,
      states: this.#states.map((state) => this.#part(state, range)),
    };
    this.#function.update(block, number);
  }

  /** Functions work in the engine's memory. */
  #applyFrom(range: KeyRange, gradient: Float32Array, number: number): void {
    const scratch = this.#allocate();
    this.#part(scratch, range).set(gradient);
    this.#apply(range, this.#part(scratch, range), number);
    this.#memory.free(scratch);
  }

  /** It is zero, and serves another step. */
  #freeSum(step: number): void {
    const sum = this.#sums.get(step);
    if (sum === undefined) return;
    this.#sums.delete(step);
    this.#memory.free(sum);
  }
}

function nameOf({ client, timestamp }: RequestId): string {
  return `${client} ${timestamp}`;
}
