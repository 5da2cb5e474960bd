/**
 * @file Copies of keys that nobody else uses meanwhile: pulled at once, worked on here, and the changes pushed at once. What a worker of a classic parameter
 * server can do where it knows ahead what it will use. A change is rounded once more than a push of each update is.
 */
import type { KeyRange } from "../core/ranges.ts";
import type { KeyNode } from "../localize/key-node.ts";
import { KeyStore } from "../localize/store.ts";

export class CopiedKeys {
  readonly #node: Pick<KeyNode, "pull" | "push" | "wait">;
  readonly #length: number;
  readonly #store: KeyStore;
  /** By first key of a range: its values when it was fetched. */
  readonly #fetched = new Map<number, Float32Array>();

  /** @param length values of a key */
  constructor(node: Pick<KeyNode, "pull" | "push" | "wait">, keys: number, length: number) {
    this.#node = node;
    this.#length = length;
    this.#store = new KeyStore(keys, length);
  }

  async fetch({ start, end }: KeyRange): Promise<void> {
    const values = new Float32Array((end - start) * this.#length);
    await this.#node.wait(this.#node.pull({ start, end }, values));
    this.#fetched.set(start, values);
    for (let key = start; key < end; key += 1) {
      this.#store.put(key, values.subarray((key - start) * this.#length, (key - start + 1) * this.#length));
    }
  }

  /** Pushes what has changed in a range that was fetched. */
  giveBack({ start, end }: KeyRange): void {
    const changes = new Float32Array((end - start) * this.#length);
    for (let key = start; key < end; key += 1) {
      this.#store.read(key, changes, (key - start) * this.#length);
      this.#store.forget(key);
    }
    const before = this.#fetched.get(start)!;
    this.#fetched.delete(start);
    for (let place = 0; place < changes.length; place += 1) changes[place]! -= before[place]!;
    this.#node.push({ start, end }, changes);
  }

  read(keys: readonly number[], into: Float32Array): void {
    for (let place = 0; place < keys.length; place += 1) this.#store.read(keys[place]!, into, place * this.#length);
  }

  add(keys: readonly number[], values: Float32Array): void {
    for (let place = 0; place < keys.length; place += 1) this.#store.add(keys[place]!, values, place * this.#length);
  }
}
