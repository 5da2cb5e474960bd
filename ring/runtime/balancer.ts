/**
 * @file Balance at one node: it answers the token with its own measurements, decides as every other node does, and at the step's
 * boundary its layers move. Node 0 keeps a plan that moves layers until the step before which it takes effect is sure to come: the
 * run may end first.
 */
import type { Settings } from "../../src/config/settings.ts";
import { layerBlocks, type LayerBlock } from "../../src/nn/blocks.ts";
import type { ComputeThread } from "../../src/runtime/compute-thread.ts";
import type { FrameHeader } from "../../src/wire/header.ts";
import { assert, defined } from "../../src/types/assert.ts";
import { ProtocolError } from "../../src/types/errors.ts";
import { stepIndex } from "../../src/types/ids.ts";
import { decideBalance, type Decision, type NodeMeasurement } from "../core/balance.ts";
import { BalanceTokenMachine, type BalanceToken, type BalanceTokenOutput } from "../core/balance-token.ts";
import { transfersAt, type Neighbour } from "../core/moves.ts";
import type { LayerRange } from "../core/partition.ts";
import type { RingView } from "../core/view.ts";
import { Migration, type LayerPart } from "./migration.ts";
import { layerBytes, layersCapBytes, movedBytes, ownBytes, rangesOf } from "./segments.ts";
import type { StageDriver } from "./stage-driver.ts";

type Move = Extract<Decision, { kind: "move" }>;

export interface BalancerInit {
  readonly settings: Settings;
  readonly view: RingView;
  /** On the ring of owners. */
  readonly place: number;
  /** As the founder measured them. */
  readonly layerCosts: readonly number[];
  /** Of layers, before this view. */
  readonly earlierMoves: number;
  readonly driver: () => StageDriver;
  readonly compute: () => ComputeThread;
  /** To the successor, behind the activations. */
  readonly sendToken: (token: BalanceToken) => void;
  readonly sendLayer: (to: Neighbour, part: LayerPart) => void;
  readonly event: (kind: string, fields: Readonly<Record<string, unknown>>) => void;
  /** Where copies are kept, layers move with a view: told at the first place alone. Null: they move within this one. */
  readonly newView: ((cut: readonly LayerRange[]) => void) | null;
  /** The node is to hold other layers from `step` on; `blocks` has them all. */
  readonly recut: (plan: number, step: number, cut: readonly LayerRange[], blocks: readonly LayerBlock[]) => void;
}

interface Pending {
  readonly plan: number;
  readonly move: Move;
  readonly migration: Migration;
}

export class Balancer {
  readonly #init: BalancerInit;
  readonly #token: BalanceTokenMachine;
  readonly #sizes: readonly number[];
  #cut: readonly LayerRange[];
  #pending: Pending | undefined;
  /** Node 0: lap two of a plan that moves layers. */
  #held: BalanceToken | undefined;

  constructor(init: BalancerInit) {
    const { settings, view, place, earlierMoves } = init;
    this.#init = init;
    this.#cut = view.cut;
    this.#sizes = movedBytes(settings);
    this.#token = new BalanceTokenMachine({
      ...{ view: view.view, node: place, nodes: view.owners.length, firstStep: view.restoreStep, earlierMoves },
      isEnabled: settings.balance !== "off",
    });
  }

  /** One range a stage. */
  get cut(): readonly LayerRange[] {
    return this.#cut;
  }

  stepBegan(step: number): void {
    this.#act(this.#token.handle({ kind: "begins", step: stepIndex(step) }));
  }

  /** Goes round with the activations. Throws ProtocolError where it does not, or is not due. */
  hear(token: BalanceToken, from: Neighbour): void {
    if (from !== "predecessor") {
      throw new ProtocolError(
        `a token of the balance does not come from a ${from}`,
        "run the same build on every node",
      );
    }
    this.#act(this.#token.handle({ kind: "token", token }));
  }

  #act(outputs: readonly BalanceTokenOutput[]): void {
    let lapTwo: BalanceToken | undefined;
    for (const output of outputs) {
      switch (output.kind) {
        case "measure":
          this.#act(this.#token.handle({ kind: "measured", measurement: this.#measure() }));
          break;
        case "send":
          if (this.#init.place === 0 && output.token.kind === "decide") lapTwo = output.token;
          else this.#init.sendToken(output.token);
          break;
        case "decide":
          this.#decide(output, lapTwo);
          break;
        case "violation":
          throw new ProtocolError(output.reason, "run the same build on every node");
      }
    }
  }

  #measure(): NodeMeasurement {
    const { settings, driver, compute } = this.#init;
    const { layerUs } = driver().measured;
    const layers = layerUs.map(({ layer, forwardUs, backwardInputUs, backwardWeightUs }) => ({
      layer,
      us: Math.max(1, forwardUs + backwardInputUs + backwardWeightUs),
    }));
    const cap = layersCapBytes(settings);
    const own = layers.reduce((sum, { layer }) => sum + ownBytes(settings)[layer]!, 0);
    // What micro-batches take now, they are to have under the next cut too.
    const slotBytes = compute().layouts.reduce((sum, layout) => sum + layout.sizeBytes, 0) - own;
    return { node: this.#init.place, layers, capBytes: cap === null ? null : Math.max(1, cap - slotBytes) };
  }

  #decide(output: Extract<BalanceTokenOutput, { kind: "decide" }>, lapTwo: BalanceToken | undefined): void {
    const { settings, place, layerCosts, event, newView } = this.#init;
    const { plan, step, measurements, earlierMoves } = output;
    const decision = decideBalance({
      mode: settings.balance === "even" ? "even" : "auto",
      layerCosts,
      layerBytes: layerBytes(settings),
      ranges: this.#cut,
      microBatches: settings.microBatches,
      remainingSteps: settings.steps - step,
      ...{ plan, earlierMoves, measurements },
    });
    event("balance", { plan, step, before: this.#cut, measurements, decision });
    if (decision.kind === "keep" || newView !== null) {
      if (lapTwo !== undefined) this.#init.sendToken(lapTwo);
      if (decision.kind === "move" && place === 0) newView?.(decision.ranges);
      return;
    }
    this.#held = lapTwo;
    const transfers = transfersAt(decision.moves, place);
    const migration = new Migration({
      ...{ step, transfers, sizeOf: (layer) => defined(this.#sizes[layer], "a layer"), send: this.#init.sendLayer },
      done: (arrived) => this.#arrived(step, arrived),
    });
    this.#pending = { plan: plan + 1, move: decision, migration };
    this.#token.handle({ kind: "moved" });
    this.#init.driver().planMove(plan + 1, place === 0 ? null : step);
  }

  /** The step before is over at this node, and the one that moves is sure to come. */
  begin(plan: number, step: number): void {
    const pending = this.#pending;
    assert(pending?.plan === plan, "a plan that begins was decided");
    const held = this.#held;
    this.#held = undefined;
    assert(held?.kind !== "decide" || held.step === step, "the step is the one that the plan names");
    if (held !== undefined) this.#init.sendToken(held);
    const { layouts, memory } = this.#init.compute();
    pending.migration.begin(layerBlocks(layouts, memory));
  }

  #arrived(step: number, blocks: readonly LayerBlock[]): void {
    const { view, place, recut } = this.#init;
    const { plan, move } = defined(this.#pending, "a plan under way");
    this.#pending = undefined;
    this.#cut = move.ranges;
    const mine = rangesOf(this.#cut, view.owners.length, place);
    const isMine = ({ layer }: LayerBlock): boolean => mine.some(([start, end]) => start <= layer && layer < end);
    recut(plan, step, this.#cut, blocks.filter(isMine));
  }

  layerPlace(header: FrameHeader, from: Neighbour): Uint8Array {
    return this.#migration(from).place(header, from);
  }

  layerPart(header: FrameHeader, from: Neighbour): void {
    this.#migration(from).received(header);
  }

  #migration(from: Neighbour): Migration {
    if (this.#pending !== undefined) return this.#pending.migration;
    throw new ProtocolError(`a layer from the ${from} that no plan moves`, "run the same build on every node");
  }
}
