/** @file A set of four whole numbers each, in order of arrival, made for millions: open addressing over typed arrays. */
const WIDTH = 4;

export class TupleSet {
  #values = new Int32Array(WIDTH * 1024);
  /** Places plus one; 0 is free. */
  #table = new Int32Array(4096);
  #size = 0;

  get size(): number {
    return this.#size;
  }

  at(place: number): readonly [number, number, number, number] {
    const values = this.#values;
    const start = place * WIDTH;
    return [values[start]!, values[start + 1]!, values[start + 2]!, values[start + 3]!];
  }

  /** Whether it was not there before. */
  add(a: number, b: number, c: number, d: number): boolean {
    const mask = this.#table.length - 1;
    let slot = hash(a, b, c, d) & mask;
    for (let place = this.#table[slot]!; place !== 0; place = this.#table[slot]!) {
      const start = (place - 1) * WIDTH;
      const values = this.#values;
      if (values[start] === a && values[start + 1] === b && values[start + 2] === c && values[start + 3] === d)
        return false;
      slot = (slot + 1) & mask;
    }
    if ((this.#size + 1) * WIDTH > this.#values.length) this.#values = grown(this.#values);
    this.#values.set([a, b, c, d], this.#size * WIDTH);
    this.#size += 1;
    this.#table[slot] = this.#size;
    if (this.#size * 2 > this.#table.length) this.#rehash();
    return true;
  }

  #rehash(): void {
    const table = new Int32Array(this.#table.length * 4);
    const mask = table.length - 1;
    for (let place = 0; place < this.#size; place += 1) {
      let slot = hash(...this.at(place)) & mask;
      while (table[slot] !== 0) slot = (slot + 1) & mask;
      table[slot] = place + 1;
    }
    this.#table = table;
  }
}

function grown(values: Int32Array<ArrayBuffer>): Int32Array<ArrayBuffer> {
  const larger = new Int32Array(values.length * 2);
  larger.set(values);
  return larger;
}

function hash(a: number, b: number, c: number, d: number): number {
  let mixed = Math.imul(a, 0x9e3779b1);
  for (const word of [b, c, d]) {
    mixed = Math.imul(mixed ^ (mixed >>> 15) ^ word, 0x85ebca6b);
    mixed ^= mixed >>> 13;
  }
  return (mixed ^ (mixed >>> 16)) >>> 0;
}
