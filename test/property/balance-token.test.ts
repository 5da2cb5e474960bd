/** @file Rings that train and balance under random delivery: every node decides every plan once, alike, and in time. */
import { describe, expect, test } from "vitest";
import { BalanceTokenMachine, type BalanceToken, type BalanceTokenOutput } from "../../ring/core/balance-token.ts";
import type { NodeMeasurement } from "../../ring/core/balance.ts";
import { stepIndex } from "../../src/types/ids.ts";
import { RandomStream } from "../../src/types/random.ts";

const PINNED_SEED = 20_261_121;
const freshSeed = Number(process.env["TEST_SEED"] ?? Math.floor(Math.random() * 1e9));
const RINGS = 400;
const STEPS = 40;

type Decided = Extract<BalanceTokenOutput, { kind: "decide" }>;
type Message =
  { readonly kind: "activation"; readonly step: number } | { readonly kind: "token"; readonly token: BalanceToken };

/** One activation a step goes down the line, one gradient comes back; node 0 begins a step when the last one's has. */
class TokenRing {
  readonly #random: RandomStream;
  readonly #nodes: number;
  readonly #machines: readonly BalanceTokenMachine[];
  readonly #forward: Message[][];
  readonly #gradients: number[][];
  readonly #begun: number[];
  readonly #measuring = new Set<number>();
  readonly decided: Decided[][];

  constructor(random: RandomStream) {
    this.#random = random;
    this.#nodes = 2 + random.nextBelow(6);
    const firstStep = random.nextBelow(3);
    const numbers = Array.from({ length: this.#nodes }, (_, node) => node);
    this.#machines = numbers.map((node) => {
      return new BalanceTokenMachine({ view: 1, node, nodes: this.#nodes, firstStep, isEnabled: true });
    });
    this.#forward = numbers.map(() => []);
    this.#gradients = numbers.map(() => []);
    this.#begun = numbers.map(() => firstStep - 1);
    this.decided = numbers.map(() => []);
    this.#begin(0, firstStep);
  }

  run(): void {
    for (let events = this.#eligible(); events.length > 0; events = this.#eligible()) {
      events[this.#random.nextBelow(events.length)]!();
      this.#check();
    }
  }

  #eligible(): (() => void)[] {
    const measurements = [...this.#measuring].map((node) => () => this.#measure(node));
    const deliveries = this.#machines.flatMap((_, node) => [
      ...(this.#forward[node]!.length > 0 ? [() => this.#deliver(node)] : []),
      ...(this.#gradients[node]!.length > 0 ? [() => this.#gradient(node)] : []),
    ]);
    return [...measurements, ...deliveries];
  }

  #begin(node: number, step: number): void {
    this.#begun[node] = step;
    const due = this.decided[0]!.filter((decision) => decision.step <= step);
    if (this.decided[node]!.length < due.length) throw new Error(`node ${node} begins step ${step} undecided`);
    this.#apply(node, this.#machines[node]!.handle({ kind: "begins", step: stepIndex(step) }));
    if (node < this.#nodes - 1) this.#forward[node + 1]!.push({ kind: "activation", step });
    else this.#gradients[node - 1]!.push(step);
  }

  #measure(node: number): void {
    this.#measuring.delete(node);
    const measurement: NodeMeasurement = {
      node,
      layers: [{ layer: node, us: 1 + this.#random.nextBelow(1000) }],
      capBytes: null,
    };
    this.#apply(node, this.#machines[node]!.handle({ kind: "measured", measurement }));
  }

  #deliver(node: number): void {
    const message = this.#forward[node]!.shift()!;
    if (message.kind === "activation") this.#begin(node, message.step);
    else this.#apply(node, this.#machines[node]!.handle(message));
  }

  #gradient(node: number): void {
    const step = this.#gradients[node]!.shift()!;
    if (node > 0) this.#gradients[node - 1]!.push(step);
    else if (step + 1 < STEPS) this.#begin(0, step + 1);
  }

  #apply(node: number, outputs: readonly BalanceTokenOutput[]): void {
    for (const output of outputs) {
      expect(output.kind).not.toBe("violation");
      if (output.kind === "measure") this.#measuring.add(node);
      if (output.kind === "send") this.#forward[(node + 1) % this.#nodes]!.push({ kind: "token", token: output.token });
      if (output.kind !== "decide") continue;
      expect(output.step, "the step has not begun here").toBeGreaterThan(this.#begun[node]!);
      this.decided[node]!.push(output);
      expect(output, "as node 0 decided").toEqual(this.decided[0]![this.decided[node]!.length - 1]);
      // A decision is a function of the measurements.
      if (output.measurements[0]!.layers[0]!.us % 2 === 0) this.#machines[node]!.handle({ kind: "moved" });
    }
  }

  #check(): void {
    const tokens = this.#forward.flat().filter(({ kind }) => kind === "token");
    // `expect` itself would take most of the time here.
    if (tokens.length + this.#measuring.size > 1) throw new Error("more than one plan is in flight");
  }
}

describe.each([
  ["pinned", PINNED_SEED],
  ["fresh", freshSeed],
])("rings that balance, %s seed %i", (_, base) => {
  test("decide alike, once a plan, before the step begins anywhere", () => {
    for (let seed = base; seed < base + RINGS; seed += 1) {
      const ring = new TokenRing(new RandomStream(seed, 1));
      try {
        ring.run();
        const [first, ...others] = ring.decided;
        expect(first!.map(({ plan }) => plan)).toEqual(first!.map((_decision, index) => index));
        expect(first!.length).toBeGreaterThanOrEqual(3);
        for (const other of others) expect(other.length, "every node decided every plan").toBe(first!.length);
      } catch (cause) {
        throw new Error(`seed ${seed}`, { cause });
      }
    }
  });
});
