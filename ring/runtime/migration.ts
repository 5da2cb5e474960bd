/**
 * @file Layers on their way to other nodes, at one node: the bytes behind `MigrationMachine`. A layer travels with its optimizer's
 * state, in parts, hop by hop; a part that the plan does not say is refused before it is read.
 */
import { LAYER_PART_BYTES_MAX, type FrameHeader } from "../../src/wire/header.ts";
import type { LayerBlock } from "../../src/nn/blocks.ts";
import { assert, defined } from "../../src/types/assert.ts";
import { ProtocolError } from "../../src/types/errors.ts";
import { MigrationMachine, type MigrationOutput, type Neighbour, type Transfers } from "../core/moves.ts";

export interface MigrationInit {
  /** Before which the layers move. */
  readonly step: number;
  readonly transfers: Transfers;
  /** Bytes of each of the model's layers as they travel. */
  readonly sizeOf: (layer: number) => number;
  readonly send: (to: Neighbour, part: LayerPart) => void;
  /** All layers that this node now holds, or relayed, are here. */
  readonly done: (arrived: readonly LayerBlock[]) => void;
}

export interface LayerPart {
  readonly step: number;
  readonly layer: number;
  readonly offsetBytes: number;
  readonly bytes: Uint8Array;
}

interface Arriving {
  readonly bytes: Uint8Array;
  readonly from: Neighbour;
  doneBytes: number;
}

export class Migration {
  readonly #init: MigrationInit;
  readonly #machine: MigrationMachine;
  /** The node's own layers from `begin` on, and what has arrived whole. */
  readonly #blocks = new Map<number, Uint8Array>();
  readonly #arriving = new Map<number, Arriving>();

  constructor(init: MigrationInit) {
    this.#init = init;
    this.#machine = new MigrationMachine(init.transfers);
  }

  /** @param own copies of the layers that the node holds */
  begin(own: readonly LayerBlock[]): void {
    for (const { layer, bytes } of own) this.#blocks.set(layer, bytes);
    this.#act(this.#machine.handle({ kind: "begin" }));
  }

  /** Memory for a part that a neighbour announces. Throws ProtocolError where it is not the next one of a layer that is due. */
  place(header: FrameHeader, from: Neighbour): Uint8Array {
    const { microBatch: layer, value: offsetBytes, payloadBytes } = header;
    const refused = (cause: string): ProtocolError =>
      new ProtocolError(`layer ${layer} from the ${from}: ${cause}`, "run the same build on every node");
    const expected = this.#init.transfers.incoming.find((incoming) => incoming.layer === layer);
    if (expected?.from !== from || this.#blocks.has(layer)) throw refused("it is not awaited");
    const sizeBytes = this.#init.sizeOf(layer);
    const doneBytes = this.#arriving.get(layer)?.doneBytes ?? 0;
    const partBytes = Math.min(LAYER_PART_BYTES_MAX, sizeBytes - doneBytes);
    if (header.step !== this.#init.step || offsetBytes !== doneBytes || payloadBytes !== partBytes) {
      throw refused(`a part of ${payloadBytes} bytes at ${offsetBytes}, not ${partBytes} at ${doneBytes}`);
    }
    const arriving = this.#arriving.get(layer) ?? { bytes: new Uint8Array(sizeBytes), from, doneBytes: 0 };
    this.#arriving.set(layer, arriving);
    return arriving.bytes.subarray(doneBytes, doneBytes + partBytes);
  }

  /** The part that was announced last is there. */
  received({ microBatch: layer, payloadBytes }: FrameHeader): void {
    const arriving = defined(this.#arriving.get(layer), "a part had its place");
    arriving.doneBytes += payloadBytes;
    if (arriving.doneBytes < arriving.bytes.length) return;
    this.#arriving.delete(layer);
    this.#blocks.set(layer, arriving.bytes);
    this.#act(this.#machine.handle({ kind: "received", layer, from: arriving.from }));
  }

  #act(outputs: readonly MigrationOutput[]): void {
    for (const output of outputs) {
      assert(output.kind !== "violation", "what the plan does not say was refused before");
      if (output.kind === "send") this.#send(output.layer, output.to);
      else this.#init.done([...this.#blocks].map(([layer, bytes]) => ({ layer, bytes })));
    }
  }

  #send(layer: number, to: Neighbour): void {
    const bytes = defined(this.#blocks.get(layer), "a layer that leaves is here");
    for (let offsetBytes = 0; offsetBytes < bytes.length; offsetBytes += LAYER_PART_BYTES_MAX) {
      const part = bytes.subarray(offsetBytes, offsetBytes + LAYER_PART_BYTES_MAX);
      this.#init.send(to, { step: this.#init.step, layer, offsetBytes, bytes: part });
    }
  }
}
