/** @file The values of the keys that are at one node: as many float32 for each. They lie in one array, which grows with the keys that come. */
import { assert } from "../../src/types/assert.ts";

const ABSENT = -1;

export class KeyStore {
  readonly #length: number;
  /** By key: its place in `#values`, or ABSENT. */
  readonly #slots: Int32Array;
  readonly #free: number[] = [];
  #values: Float32Array;
  #used = 0;

  /** @param length values of a key */
  constructor(keys: number, length: number) {
    this.#length = length;
    this.#slots = new Int32Array(keys).fill(ABSENT);
    this.#values = new Float32Array(length);
  }

  has(key: number): boolean {
    return this.#slots[key]! !== ABSENT;
  }

  /** A key that was not here. */
  put(key: number, values: ArrayLike<number>): void {
    assert(!this.has(key), `key ${key} is here already`);
    const slot = this.#free.pop() ?? this.#used++;
    if ((slot + 1) * this.#length > this.#values.length) this.#grow();
    this.#slots[key] = slot;
    this.#values.set(values, slot * this.#length);
  }

  forget(key: number): void {
    this.#free.push(this.#slots[key]!);
    this.#slots[key] = ABSENT;
  }

  /** @param offset of the key's first value in `into` */
  read(key: number, into: Float32Array, offset: number): void {
    const from = this.#slots[key]! * this.#length;
    // Values of a key are few: a loop is cheaper than a view and a copy.
    for (let place = 0; place < this.#length; place += 1) into[offset + place] = this.#values[from + place]!;
  }

  /** @param offset of the key's first value in `values` */
  add(key: number, values: Float32Array, offset: number): void {
    const to = this.#slots[key]! * this.#length;
    for (let place = 0; place < this.#length; place += 1) this.#values[to + place]! += values[offset + place]!;
  }

  #grow(): void {
    const grown = new Float32Array(2 * this.#values.length);
    grown.set(this.#values);
    this.#values = grown;
  }
}
