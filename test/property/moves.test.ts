/** @file Rings of migration machines under random delivery, every layer counted after every event. */
import { describe, expect, test } from "vitest";
import {
  MigrationMachine,
  movesBetween,
  transfersAt,
  type MigrationOutput,
  type Neighbour,
} from "../../ring/core/moves.ts";
import type { LayerRange } from "../../ring/core/partition.ts";
import { RandomStream } from "../../src/types/random.ts";

const PINNED_SEED = 20_261_121;
const freshSeed = Number(process.env["TEST_SEED"] ?? Math.floor(Math.random() * 1e9));
const RINGS = 1_000;

interface Scenario {
  readonly nodes: number;
  readonly layers: number;
  readonly before: readonly LayerRange[];
  readonly after: readonly LayerRange[];
}

function drawCut(random: RandomStream, layers: number, stages: number): LayerRange[] {
  const cuts = new Set<number>();
  while (cuts.size < stages - 1) cuts.add(1 + random.nextBelow(layers - 1));
  const ends = [...cuts, layers].toSorted((a, b) => a - b);
  return ends.map((end, stage) => [stage === 0 ? 0 : ends[stage - 1]!, end]);
}

function drawScenario(random: RandomStream): Scenario {
  const nodes = 1 + random.nextBelow(8);
  const stages = nodes * (1 + random.nextBelow(3));
  const layers = stages + random.nextBelow(20);
  return { nodes, layers, before: drawCut(random, layers, stages), after: drawCut(random, layers, stages) };
}

/** By definition: the node whose ranges hold the layer. */
function holderOf(ranges: readonly LayerRange[], nodes: number, layer: number): number {
  return ranges.findIndex(([start, end]) => start <= layer && layer < end) % nodes;
}

/** A ring that moves layers, with its own idea of who holds what: `places` says for each layer every place where it is. */
class MovingRing {
  readonly #scenario: Scenario;
  readonly #machines: readonly MigrationMachine[];
  readonly #held: readonly Set<number>[];
  /** By node: the layers that it holds in the end. */
  readonly #targets: readonly (readonly number[])[];
  /** In flight, by edge `node:neighbour it was sent to`. */
  readonly #edges = new Map<string, number[]>();
  readonly #begun = new Set<number>();
  readonly #done = new Set<number>();
  #hopsLeft = 0;

  constructor(scenario: Scenario) {
    const { nodes, layers, before, after } = scenario;
    const moves = movesBetween(before, after, nodes);
    this.#scenario = scenario;
    this.#machines = before.slice(0, nodes).map((_, node) => new MigrationMachine(transfersAt(moves, node)));
    const all = Array.from({ length: layers }, (_, layer) => layer);
    const heldBy = (ranges: readonly LayerRange[], node: number): number[] =>
      all.filter((layer) => holderOf(ranges, nodes, layer) === node);
    this.#held = this.#machines.map((_, node) => new Set(heldBy(before, node)));
    this.#targets = this.#machines.map((_, node) => heldBy(after, node));
    for (let layer = 0; layer < layers; layer += 1) {
      this.#hopsLeft += Math.abs(holderOf(before, nodes, layer) - holderOf(after, nodes, layer));
    }
  }

  run(random: RandomStream): void {
    for (let events = this.#eligible(); events.length > 0; events = this.#eligible()) {
      events[random.nextBelow(events.length)]!();
      this.#check();
    }
    this.#checkEnd();
  }

  #eligible(): (() => void)[] {
    const { nodes } = this.#scenario;
    const begins = this.#machines.flatMap((machine, node) => {
      const begin = (): void => {
        this.#begun.add(node);
        this.#apply(node, machine.handle({ kind: "begin" }));
      };
      return this.#begun.has(node) ? [] : [begin];
    });
    const deliveries = [...this.#edges].flatMap(([edge, queue]) => {
      const [sender, way] = edge.split(":") as [string, Neighbour];
      const node = (Number(sender) + (way === "successor" ? 1 : nodes - 1)) % nodes;
      const deliver = (): void => {
        const layer = queue.shift()!;
        this.#held[node]!.add(layer);
        const from = way === "successor" ? "predecessor" : "successor";
        this.#apply(node, this.#machines[node]!.handle({ kind: "received", layer, from }));
      };
      return queue.length === 0 ? [] : [deliver];
    });
    return [...begins, ...deliveries];
  }

  #apply(node: number, outputs: readonly MigrationOutput[]): void {
    expect(outputs.length === 0 || this.#begun.has(node), "nothing happens before the step is over").toBe(true);
    for (const output of outputs) {
      expect(this.#done.has(node), "nothing follows done").toBe(false);
      if (output.kind === "done") {
        this.#done.add(node);
        continue;
      }
      expect(output.kind).toBe("send");
      if (output.kind !== "send") continue;
      const isClosure = output.to === "successor" ? node === this.#machines.length - 1 : node === 0;
      expect(isClosure, "no layer crosses the closure edge").toBe(false);
      expect(this.#held[node]!.delete(output.layer), "a node sends what it has").toBe(true);
      const edge = `${node}:${output.to}`;
      this.#edges.set(edge, [...(this.#edges.get(edge) ?? []), output.layer]);
      this.#hopsLeft -= 1;
    }
  }

  /** Each layer is in exactly one place, and a node that is done holds just its new layers. */
  #check(): void {
    const { layers } = this.#scenario;
    const places = [...this.#held.flatMap((held) => [...held]), ...[...this.#edges.values()].flat()];
    expect(places.toSorted((a, b) => a - b)).toEqual(Array.from({ length: layers }, (_, layer) => layer));
    expect(this.#hopsLeft).toBeGreaterThanOrEqual(0);
    for (const node of this.#done)
      expect([...this.#held[node]!].toSorted((a, b) => a - b)).toEqual(this.#targets[node]);
  }

  /** That the layers of nodes that are done are right has been seen. */
  #checkEnd(): void {
    expect(this.#done.size, "every node is done").toBe(this.#scenario.nodes);
    expect(this.#hopsLeft, "each layer took the way along the line").toBe(0);
  }
}

describe.each([
  ["pinned", PINNED_SEED],
  ["fresh", freshSeed],
])("rings that move layers, %s seed %i", (_, base) => {
  test("end with every layer at its new node, once", () => {
    for (let index = 0; index < RINGS; index += 1) {
      const random = new RandomStream(base + index, 1);
      const scenario = drawScenario(random);
      try {
        new MovingRing(scenario).run(random);
      } catch (cause) {
        throw new Error(`seed ${base + index}: ${JSON.stringify(scenario)}`, { cause });
      }
    }
  });
});
