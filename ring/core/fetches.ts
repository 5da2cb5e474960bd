/**
 * @file What a node lacks of a view's layers, and from whom it asks it: whoever holds the version, evicted nodes included. Who fails is not asked again;
 * the next holder is. One request to a holder at a time.
 */
import { unreachable } from "../../src/types/assert.ts";
import type { Machine } from "../../src/types/machine.ts";
import type { LayerSource } from "./view.ts";

export type FetchInput =
  | { readonly kind: "begin" }
  | { readonly kind: "arrived"; readonly layer: number }
  /** A request to this holder ended; what it did not bring is asked of others. */
  | { readonly kind: "ended"; readonly from: number };

export type FetchOutput =
  | { readonly kind: "fetch"; readonly from: number; readonly layers: readonly number[] }
  /** All that was wanted is here. */
  | { readonly kind: "done" }
  /** Nobody is left to ask for these. */
  | { readonly kind: "failed"; readonly layers: readonly number[] };

export interface FetchInit {
  readonly self: number;
  /** In the order in which they are needed. */
  readonly wanted: readonly number[];
  /** By layer of the model. */
  readonly sources: readonly LayerSource[];
  /** Nodes that are expected to answer: asked first. */
  readonly present: readonly number[];
}

export class FetchMachine implements Machine<FetchInput, FetchOutput> {
  readonly #init: FetchInit;
  readonly #missing: Set<number>;
  readonly #asked = new Map<number, readonly number[]>();
  readonly #failed = new Set<number>();
  #isOver = false;

  constructor(init: FetchInit) {
    this.#init = init;
    this.#missing = new Set(init.wanted);
  }

  get missing(): readonly number[] {
    return [...this.#missing];
  }

  handle(input: FetchInput): readonly FetchOutput[] {
    switch (input.kind) {
      case "begin":
        break;
      case "arrived":
        this.#missing.delete(input.layer);
        break;
      case "ended":
        if (this.#asked.get(input.from)?.some((layer) => this.#missing.has(layer)) === true)
          this.#failed.add(input.from);
        this.#asked.delete(input.from);
        break;
      default:
        return unreachable(input);
    }
    return this.#isOver ? [] : this.#advance();
  }

  #advance(): readonly FetchOutput[] {
    if (this.#missing.size === 0) {
      this.#isOver = true;
      return [{ kind: "done" }];
    }
    const underWay = new Set([...this.#asked.values()].flat());
    const byHolder = new Map<number, number[]>();
    for (const layer of this.#missing) {
      if (underWay.has(layer)) continue;
      const holder = this.#holderOf(layer, byHolder);
      if (holder !== undefined) byHolder.set(holder, [...(byHolder.get(holder) ?? []), layer]);
    }
    for (const [from, layers] of byHolder) this.#asked.set(from, layers);
    if (this.#asked.size > 0) return [...byHolder].map(([from, layers]) => ({ kind: "fetch", from, layers }));
    this.#isOver = true;
    return [{ kind: "failed", layers: this.missing }];
  }

  /** The least asked of those that are present, else of the others; not one that is busy or has failed. */
  #holderOf(layer: number, planned: ReadonlyMap<number, readonly number[]>): number | undefined {
    const { self, sources, present } = this.#init;
    const usable = sources[layer]!.holders.filter((node) => node !== self && !this.#failed.has(node));
    const free = usable.filter((node) => !this.#asked.has(node));
    const best = free.filter((node) => present.includes(node));
    const load = (node: number): number => planned.get(node)?.length ?? 0;
    return (best.length > 0 ? best : free).toSorted((a, b) => load(a) - load(b))[0];
  }
}
