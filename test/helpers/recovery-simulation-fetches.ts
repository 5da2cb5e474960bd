/** @file How layers of a restored version come to a simulated node: requests, and their answers layer by layer, from whatever memory the holder has. */
import type { KeeperOutput } from "../../ring/core/keeper-messages.ts";
import type { MembershipMessage } from "../../ring/core/membership-messages.ts";
import { digestOf } from "./recovery-simulation-model.ts";
import type { SimulatedPeer } from "./recovery-simulation-peer.ts";
import type { RecoveryProcess } from "./recovery-simulation-process.ts";

/** A holder that says nothing for so long is given up. */
const FETCH_LIMIT_MS = 1_000;

/** Frames of the control plane, and of the streams that bring state. */
export type Packet =
  | { readonly kind: "membership"; readonly view: number; readonly message: MembershipMessage }
  | { readonly kind: "fetch"; readonly view: number; readonly version: number; readonly layers: readonly number[] }
  | {
      readonly kind: "layer";
      readonly view: number;
      readonly version: number;
      readonly layer: number;
      readonly value: number;
    }
  | { readonly kind: "fetchEnd"; readonly view: number };

export class Fetching {
  readonly #process: RecoveryProcess;
  /** By holder: the view of the request, and when something came last. */
  readonly #asked = new Map<number, { readonly view: number; lastMs: number }>();

  constructor(process: RecoveryProcess) {
    this.#process = process;
  }

  begin({ view, from, version, layers }: Extract<KeeperOutput, { readonly kind: "fetch" }>): void {
    const { world } = this.#process;
    this.#asked.set(from, { view, lastMs: world.nowMs });
    world.faults.reached(this.#process, "fetching");
    world.network.send(this.#process, from, { kind: "fetch", view, version, layers });
    this.#await(from, view);
  }

  #await(from: number, view: number): void {
    this.#process.later(FETCH_LIMIT_MS, () => {
      const asked = this.#asked.get(from);
      if (asked?.view !== view) return;
      if (this.#process.world.nowMs - asked.lastMs < FETCH_LIMIT_MS) this.#await(from, view);
      else this.#end(from, view);
    });
  }

  #end(from: number, view: number): void {
    if (this.#asked.get(from)?.view !== view) return;
    this.#asked.delete(from);
    this.#process.toKeeper({ kind: "fetchEnded", view, from });
  }

  hear(from: SimulatedPeer, node: number, packet: Exclude<Packet, { readonly kind: "membership" }>): void {
    switch (packet.kind) {
      case "fetch":
        return this.#serve(from, packet);
      case "layer":
        return this.#arrived(node, packet);
      case "fetchEnd":
        return this.#end(node, packet.view);
    }
  }

  #arrived(from: number, { view, version, layer, value }: Extract<Packet, { readonly kind: "layer" }>): void {
    const { world, memory } = this.#process;
    const asked = this.#asked.get(from);
    if (asked?.view !== view || this.#process.view.view !== view || this.#process.isOutside) return;
    asked.lastMs = world.nowMs;
    world.faults.reached(this.#process, "fetched");
    const digest = digestOf(value);
    if (this.#process.view.sources[layer]?.digest === digest) memory.add(layer, version, value);
    this.#process.toKeeper({ kind: "fetched", view, layer, digest });
  }

  #serve(to: SimulatedPeer, { view, version, layers }: Extract<Packet, { readonly kind: "fetch" }>): void {
    const { world } = this.#process;
    const [layer, ...rest] = layers;
    const value = layer === undefined ? undefined : this.#process.memory.read(layer, version);
    if (layer === undefined || value === undefined) {
      world.network.sendTo(this.#process, to, { kind: "fetchEnd", view });
      return;
    }
    world.faults.reached(this.#process, "serving");
    world.network.sendTo(this.#process, to, { kind: "layer", view, version, layer, value });
    this.#process.later(world.delay(), () => this.#serve(to, { kind: "fetch", view, version, layers: rest }));
  }
}
