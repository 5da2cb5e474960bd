/**
 * @file A server's place in the chain of one partition (van Renesse and Schneider 2004; Li 2014, section 4.3). Updates go from the head to the tail in
 * order, and each server makes one when all behind it have it: so whatever a server shows is held by all of the chain, and whoever becomes the head
 * has all that was ever shown. A server that was taken out of the chain, and does not know it, cannot show anything new: its successor takes
 * nothing from it any more.
 */
import { assert } from "../../src/types/assert.ts";
import type { Machine } from "../../src/types/machine.ts";
import type { KeyRange } from "./ranges.ts";

/** One update of a partition: that by a step's sum, or by one share where pushes are applied alone. */
export interface Update {
  readonly step: number;
  /** Null: the sum of all. */
  readonly share: number | null;
  readonly keys: KeyRange;
}

/** Who is before and behind; null: nobody. `epoch` grows whenever the chain changes. */
export interface Place {
  readonly epoch: number;
  readonly previous: number | null;
  readonly next: number | null;
  /** False: the partition is to come from the previous one, whatever there is of it here. */
  readonly hasState: boolean;
  /** False: it is to go to the next one. */
  readonly nextHasState: boolean;
}

/** `Values` are an update's, `Copy` a whole partition's: the machine hands them on. */
export type ChainInput<Values, Copy> =
  | { readonly kind: "place"; readonly place: Place }
  /** Of the head alone. */
  | { readonly kind: "propose"; readonly update: Update; readonly values: Values }
  | ChainMessage<Values, Copy>;

/** From another server of the chain. One of an epoch that is to come waits at the user's. */
export type ChainMessage<Values, Copy> = { readonly from: number; readonly epoch: number } & (
  | { readonly kind: "update"; readonly index: number; readonly update: Update; readonly values: Values }
  /** It has all updates up to and with this one. */
  | { readonly kind: "has"; readonly index: number }
  /** The partition as it is after so many updates. */
  | { readonly kind: "copy"; readonly updates: number; readonly copy: Copy }
);

export type ChainOutput<Values, Copy> =
  | {
      readonly kind: "forward";
      readonly to: number;
      readonly epoch: number;
      readonly index: number;
      readonly update: Update;
      readonly values: Values;
    }
  | { readonly kind: "tell"; readonly to: number; readonly epoch: number; readonly index: number }
  /** The partition goes there as it is now, after so many updates. */
  | { readonly kind: "sendCopy"; readonly to: number; readonly epoch: number; readonly updates: number }
  /** It came from the previous one, and will be made. */
  | { readonly kind: "take"; readonly update: Update }
  /** What was here of the partition is over; the values of updates that were not made are wanted no more. */
  | { readonly kind: "reset"; readonly dropped: readonly Values[] }
  /** The copy that came is the partition. */
  | { readonly kind: "install"; readonly copy: Copy }
  /** In order. */
  | { readonly kind: "make"; readonly update: Update; readonly values: Values };

const NOWHERE: Place = { epoch: -1, previous: null, next: null, hasState: false, nextHasState: true };

interface Open<Values> {
  readonly update: Update;
  readonly values: Values;
}

export class Chain<Values, Copy> implements Machine<ChainInput<Values, Copy>, ChainOutput<Values, Copy>> {
  #place = NOWHERE;
  #hasState = false;
  /** Updates that are made. */
  #made = 0;
  /** Updates that are held and not made, in order: the first has the number `#made`. */
  #open: Open<Values>[] = [];
  /** The next one has all before this number; never more than are made, but for a moment, so that it holds for whoever is the next. */
  #nextHas = 0;

  get place(): Place {
    return this.#place;
  }

  get isHead(): boolean {
    return this.#hasState && this.#place.previous === null;
  }

  get hasState(): boolean {
    return this.#hasState;
  }

  /** Updates that are made, and those that are held. */
  get counts(): { readonly made: number; readonly held: number } {
    return { made: this.#made, held: this.#made + this.#open.length };
  }

  handle(input: ChainInput<Values, Copy>): readonly ChainOutput<Values, Copy>[] {
    switch (input.kind) {
      case "place":
        return this.#move(input.place);
      case "propose":
        assert(this.isHead, "the head proposes");
        this.#open.push({ update: input.update, values: input.values });
        return [...this.#forward(this.#open.length - 1), ...this.#make()];
      default:
        return this.#hear(input);
    }
  }

  #hear(input: ChainMessage<Values, Copy>): ChainOutput<Values, Copy>[] {
    const { epoch, previous, next } = this.#place;
    if (input.epoch !== epoch || input.from !== (input.kind === "has" ? next : previous)) return [];
    switch (input.kind) {
      case "update":
        return this.#hasState ? this.#take(input.index, input) : [];
      case "has":
        this.#nextHas = Math.max(this.#nextHas, input.index + 1);
        return this.#make();
      case "copy":
        return this.#install(input.updates, input.copy);
    }
  }

  #move(place: Place): ChainOutput<Values, Copy>[] {
    if (place.epoch <= this.#place.epoch) return [];
    const { next: to, epoch } = place;
    const isFirst = this.#place === NOWHERE;
    this.#place = place;
    const outputs = isFirst || place.hasState ? this.#make() : this.#reset();
    if (isFirst) this.#hasState = place.hasState;
    if (to !== null && this.#hasState) {
      if (!place.nextHasState) outputs.push({ kind: "sendCopy", to, epoch, updates: this.#made });
      // What was on its way in the epoch before is not taken: it goes once more.
      for (const offset of this.#open.keys()) outputs.push(...this.#forward(offset));
    }
    return outputs;
  }

  #reset(): ChainOutput<Values, Copy>[] {
    const dropped = this.#open.map(({ values }) => values);
    this.#hasState = false;
    this.#made = this.#nextHas = 0;
    this.#open = [];
    return [{ kind: "reset", dropped }];
  }

  #forward(offset: number): ChainOutput<Values, Copy>[] {
    const { next: to, epoch } = this.#place;
    return to === null ? [] : [{ kind: "forward", to, epoch, index: this.#made + offset, ...this.#open[offset]! }];
  }

  #take(index: number, { update, values }: Open<Values>): ChainOutput<Values, Copy>[] {
    const { held } = this.counts;
    // Made already: the previous one did not hear of it.
    if (index < this.#made) return this.#tell(index);
    if (index < held) return [];
    assert(index === held, "updates come in order");
    this.#open.push({ update, values });
    return [{ kind: "take", update }, ...this.#forward(this.#open.length - 1), ...this.#make()];
  }

  #install(updates: number, copy: Copy): ChainOutput<Values, Copy>[] {
    if (this.#hasState) return [];
    this.#hasState = true;
    this.#made = updates;
    const { next: to, epoch } = this.#place;
    return [{ kind: "install", copy }, ...(to === null ? [] : [{ kind: "sendCopy" as const, to, epoch, updates }])];
  }

  #make(): ChainOutput<Values, Copy>[] {
    const outputs: ChainOutput<Values, Copy>[] = [];
    while (this.#open.length > 0 && (this.#place.next === null || this.#nextHas > this.#made)) {
      outputs.push({ kind: "make", ...this.#open.shift()! });
      this.#made += 1;
      outputs.push(...this.#tell(this.#made - 1));
    }
    return outputs;
  }

  #tell(index: number): ChainOutput<Values, Copy>[] {
    const { previous: to, epoch } = this.#place;
    return to === null ? [] : [{ kind: "tell", to, epoch, index }];
  }
}
