/** @file Rings of commit machines under random delays: what is committed is the least that any holder has, and at most 2n - 1 tokens a version. */
import { describe, expect, test } from "vitest";
import { CommitMachine, type CommitInput, type CommitOutput } from "../../ring/core/commit.ts";
import { replicaHolders, type RingView } from "../../ring/core/view.ts";
import { RandomStream } from "../../src/types/random.ts";
import { digestOf, madeView } from "../helpers/view-explorer-views.ts";

const PINNED_SEED = 20_261_121;
const freshSeed = Number(process.env["TEST_SEED"] ?? Math.floor(Math.random() * 1e9));
const VERSIONS = 6;
const FIRST = 4;

class CommitRing {
  readonly #random: RandomStream;
  readonly #view: RingView;
  readonly #machines: readonly CommitMachine[];
  /** Of each owner, what it and each of its replicas has. */
  readonly #held: Map<number, number>[];
  /** Not yet delivered, in order by sender and receiver. */
  readonly #lines = new Map<string, { readonly to: number; readonly input: CommitInput }[]>();
  readonly frontiers: number[];
  tokens = 0;

  constructor(random: RandomStream, size: number) {
    this.#random = random;
    this.#view = madeView(size, { restoreStep: FIRST, replicas: random.nextBelow(Math.min(size, 4)) });
    const { owners } = this.#view;
    this.#machines = owners.map((node) => new CommitMachine(this.#view, node));
    this.#held = owners.map(
      (node) => new Map([node, ...replicaHolders(this.#view, node)].map((holder) => [holder, FIRST - 1])),
    );
    this.frontiers = owners.map(() => FIRST - 1);
  }

  run(): void {
    for (let events = this.#events(); events.length > 0; events = this.#events()) {
      events[this.#random.nextBelow(events.length)]!();
    }
  }

  get #least(): number {
    return Math.min(...this.#held.flatMap((holders) => [...holders.values()]));
  }

  #events(): (() => void)[] {
    const steps = this.#held.flatMap((holders, owner) =>
      [...holders]
        // The update of a step waits for its frontier, at every holder.
        .filter(([holder, version]) => version < Math.min(this.frontiers[holder]! + 1, FIRST + VERSIONS))
        .map(
          ([holder, version]) =>
            () =>
              this.#step(owner, holder, version + 1),
        ),
    );
    const deliveries = [...this.#lines.values()]
      .filter((line) => line.length > 0)
      .map((line) => () => {
        const { to, input } = line.shift()!;
        this.#handle(to, input);
      });
    return [...steps, ...deliveries];
  }

  #step(owner: number, holder: number, version: number): void {
    this.#held[owner]!.set(holder, version);
    const digests = [digestOf(owner, version)];
    if (holder === owner) this.#handle(owner, { kind: "own", version, digests });
    else this.#send(holder, owner, { kind: "applied", from: holder, version, digests });
  }

  #send(from: number, to: number, input: CommitInput): void {
    const key = `${from} ${to} ${input.kind}`;
    const line = this.#lines.get(key) ?? [];
    this.#lines.set(key, [...line, { to, input }]);
  }

  #handle(node: number, input: CommitInput): void {
    for (const output of this.#machines[node]!.handle(input)) this.#take(node, output);
  }

  #take(node: number, output: CommitOutput): void {
    if (output.kind === "sendToken") {
      this.tokens += 1;
      const { version, count } = output;
      this.#send(node, (node + 1) % this.#machines.length, { kind: "token", version, count });
    } else if (output.kind === "frontier") {
      expect(output.version, "one by one").toBe(this.frontiers[node]! + 1);
      expect(output.version, "every holder has it").toBeLessThanOrEqual(this.#least);
      for (const { bound } of this.#machines)
        expect(bound, "nobody rules it out").toBeGreaterThanOrEqual(output.version);
      this.frontiers[node] = output.version;
    } else throw new Error(JSON.stringify(output));
  }
}

describe.each([
  ["pinned", PINNED_SEED],
  ["fresh", freshSeed],
])("%s seed %i", (_, seed) => {
  test.each([1, 2, 3, 4, 5, 6, 7, 8])("%i owners commit what all hold", (size) => {
    for (let index = 0; index < 40; index += 1) {
      const ring = new CommitRing(new RandomStream(seed, 100 * size + index), size);
      ring.run();
      const last = FIRST + VERSIONS;
      expect(ring.frontiers, `ring ${index} comes to its end`).toEqual(ring.frontiers.map(() => last));
      expect(ring.tokens).toBeLessThanOrEqual((VERSIONS + 1) * (2 * size - 1));
    }
  });
});

const three = () => new CommitMachine(madeView(3), 0);

test("a copy that differs is none, whoever tells first", () => {
  for (const isOwnFirst of [true, false]) {
    const machine = three();
    const inputs: CommitInput[] = [
      { kind: "own", version: 0, digests: ["a"] },
      { kind: "applied", from: 1, version: 0, digests: ["b"] },
    ];
    const outputs = (isOwnFirst ? inputs : inputs.toReversed()).flatMap((input) => machine.handle(input));
    expect(outputs).toEqual([{ kind: "mismatch", with: 1, version: 0 }]);
    expect(machine.describe()).toEqual({ frontier: -1, replicas: [1] });
  }
});

test("what cannot be is refused", () => {
  const refused = (input: CommitInput): boolean => three().handle(input)[0]?.kind === "violation";
  expect(refused({ kind: "applied", from: 2, version: 0, digests: [] }), "no replica").toBe(true);
  expect(refused({ kind: "applied", from: 1, version: 1, digests: [] }), "two ahead").toBe(true);
  expect(refused({ kind: "token", version: 1, count: 3 }), "another version").toBe(true);
  expect(refused({ kind: "token", version: 0, count: 2 }), "another place's").toBe(true);
});

test("a token that comes back before it was sent commits nothing", () => {
  expect(three().handle({ kind: "token", version: 0, count: 3 })).toMatchObject([{ kind: "violation" }]);
});
