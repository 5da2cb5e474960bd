/**
 * @file A queue of events in virtual time: a binary heap of (time, payload), first in first out at equal times. Payloads are
 * integers, so a run of millions of events allocates nothing but the heap itself.
 */
import { assert } from "../types/assert.ts";

const START_CAPACITY = 1024;

export class EventQueue {
  #times = new Float64Array(START_CAPACITY);
  #payloads = new Int32Array(START_CAPACITY);
  /** Order of arrival: decides between equal times. */
  #orders = new Float64Array(START_CAPACITY);
  #size = 0;
  #pushed = 0;

  get size(): number {
    return this.#size;
  }

  /** Of the earliest event. */
  get time(): number {
    assert(this.#size > 0, "an event is queued");
    return this.#times[0]!;
  }

  /** @param payload a 32-bit integer */
  push(time: number, payload: number): void {
    if (this.#size === this.#times.length) this.#grow();
    const times = this.#times;
    const order = this.#pushed;
    this.#pushed += 1;
    let place = this.#size;
    this.#size += 1;
    // The new event is the youngest: at equal times its parent stays above it.
    while (place > 0) {
      const parent = (place - 1) >> 1;
      if (times[parent]! <= time) break;
      this.#copy(parent, place);
      place = parent;
    }
    this.#put(place, time, payload, order);
  }

  /** Takes the earliest event, and returns its payload. */
  pop(): number {
    assert(this.#size > 0, "an event is queued");
    const payload = this.#payloads[0]!;
    this.#size -= 1;
    if (this.#size > 0) this.#sink(this.#size);
    return payload;
  }

  /** Puts the event at `from` where the root was, and lets it sink. */
  #sink(from: number): void {
    const [times, orders, size] = [this.#times, this.#orders, this.#size];
    const [time, order, payload] = [times[from]!, orders[from]!, this.#payloads[from]!];
    let place = 0;
    for (;;) {
      let child = 2 * place + 1;
      if (child >= size) break;
      const right = child + 1;
      if (right < size && this.#isBefore(times[right]!, orders[right]!, times[child]!, orders[child]!)) child = right;
      if (!this.#isBefore(times[child]!, orders[child]!, time, order)) break;
      this.#copy(child, place);
      place = child;
    }
    this.#put(place, time, payload, order);
  }

  #isBefore(time: number, order: number, otherTime: number, otherOrder: number): boolean {
    return time < otherTime || (time === otherTime && order < otherOrder);
  }

  #copy(from: number, to: number): void {
    this.#times[to] = this.#times[from]!;
    this.#payloads[to] = this.#payloads[from]!;
    this.#orders[to] = this.#orders[from]!;
  }

  #put(place: number, time: number, payload: number, order: number): void {
    this.#times[place] = time;
    this.#payloads[place] = payload;
    this.#orders[place] = order;
  }

  #grow(): void {
    const grown = <Values extends Float64Array | Int32Array>(values: Values, larger: Values): Values => {
      larger.set(values);
      return larger;
    };
    const length = 2 * this.#times.length;
    this.#times = grown(this.#times, new Float64Array(length));
    this.#payloads = grown(this.#payloads, new Int32Array(length));
    this.#orders = grown(this.#orders, new Float64Array(length));
  }
}
