/** @file Formation in every order of requests, acceptances and departures, with a checker after each event. */
import { describe, expect, test } from "vitest";
import {
  FormationMachine,
  viewDigest,
  type Candidate,
  type FormationInit,
  type FormationOutput,
  type FormedRing,
} from "../../ring/core/formation.ts";
import { RandomStream } from "../../src/types/random.ts";

const PINNED_SEED = 20_261_121;
const freshSeed = Number(process.env["TEST_SEED"] ?? Math.floor(Math.random() * 1e9));
const FORMATIONS = 1_000;

const candidate = (peerId: string, changes: Partial<Candidate> = {}): Candidate => ({
  peerId,
  addresses: [`/memory/${peerId}`],
  machine: "here",
  incarnation: "0".repeat(32),
  boot: 0,
  engines: ["wasm:11", "wasm-exact:22"],
  wish: null,
  ...changes,
});

const founding = (size: number, changes: Partial<FormationInit> = {}): FormationMachine =>
  new FormationMachine({
    size,
    founder: candidate("founder"),
    layerCosts: [3, 1, 2],
    engines: ["wasm", "wasm-exact"],
    ...changes,
  });

const kinds = (outputs: readonly FormationOutput[]): string[] => outputs.map((output) => output.kind);
const proposalIn = (outputs: readonly FormationOutput[]): FormedRing =>
  outputs.find((output) => output.kind === "propose")!.view;

describe("a ring forms", () => {
  test("alone, at once", () => {
    expect(kinds(founding(1).handle({ kind: "begin" }))).toEqual(["propose", "decided"]);
  });

  test("of three, when all have accepted", () => {
    const machine = founding(3);
    expect(machine.handle({ kind: "begin" })).toEqual([]);
    expect(machine.handle({ kind: "request", candidate: candidate("a") })).toEqual([
      { kind: "admit", peerId: "a", present: 2, size: 3 },
    ]);
    const outputs = machine.handle({ kind: "request", candidate: candidate("b") });
    expect(kinds(outputs)).toEqual(["admit", "propose"]);
    const digest = viewDigest(proposalIn(outputs));
    expect(machine.handle({ kind: "accepted", peerId: "b", digest })).toEqual([]);
    expect(machine.handle({ kind: "accepted", peerId: "b", digest })).toEqual([]);
    expect(machine.handle({ kind: "accepted", peerId: "a", digest })).toEqual([
      { kind: "decided", view: proposalIn(outputs) },
    ]);
    expect(machine.handle({ kind: "gone", peerId: "a" })).toEqual([]);
  });

  test("with the numbers that were wished for, then in order of arrival", () => {
    const machine = founding(5);
    for (const [peerId, wish] of [
      ["x", null],
      ["c", 3],
      ["y", null],
    ] as const) {
      machine.handle({ kind: "request", candidate: candidate(peerId, { wish }) });
    }
    const { members } = proposalIn(machine.handle({ kind: "request", candidate: candidate("b", { wish: 2 }) }));
    expect(members.map(({ peerId, node }) => [peerId, node])).toEqual([
      ["founder", 0],
      ["b", 1],
      ["c", 2],
      ["x", 3],
      ["y", 4],
    ]);
  });
});

describe("a request is refused", () => {
  test("when the ring is whole, and for ever afterwards", () => {
    const machine = founding(2);
    const digest = viewDigest(proposalIn(machine.handle({ kind: "request", candidate: candidate("a") })));
    const whole = { kind: "refuse", peerId: "b", reason: "the ring is whole (2 of 2 nodes)" };
    expect(machine.handle({ kind: "request", candidate: candidate("b") })).toEqual([whole]);
    expect(kinds(machine.handle({ kind: "accepted", peerId: "a", digest }))).toEqual(["decided"]);
    expect(machine.handle({ kind: "request", candidate: candidate("b") })).toEqual([whole]);
  });

  test.each(["a", "founder"])("when %s is there already", (peerId) => {
    const machine = founding(3);
    machine.handle({ kind: "request", candidate: candidate("a") });
    expect(machine.handle({ kind: "request", candidate: candidate(peerId) })).toEqual([
      { kind: "refuse", peerId, reason: "this peer id is already a member" },
    ]);
  });

  test("when it shares no engine with all the others, by name or by bits", () => {
    const machine = founding(4);
    const other = candidate("a", { engines: ["wasm:99", "blas:1"] });
    expect(machine.handle({ kind: "request", candidate: other })).toEqual([
      {
        kind: "refuse",
        peerId: "a",
        reason: "field engine: the ring has wasm:11, wasm-exact:22, not wasm:99, blas:1",
      },
    ]);
    expect(machine.present).toBe(1);
  });
});

describe("the engine", () => {
  const engineOf = (theirs: readonly string[], engines: readonly string[] = ["wasm", "wasm-exact"]): string =>
    proposalIn(founding(2, { engines }).handle({ kind: "request", candidate: candidate("a", { engines: theirs }) }))
      .engine;

  test("is the first kind that all share, with the same bits", () => {
    expect(engineOf(["wasm-exact:22", "wasm:11"])).toBe("wasm:11");
    expect(engineOf(["wasm-exact:22", "wasm:99"])).toBe("wasm-exact:22");
    expect(engineOf(["wasm:11", "wasm-exact:22"], ["wasm-exact", "wasm"])).toBe("wasm-exact:22");
  });
});

describe("an acceptance", () => {
  test("of another proposal than the one sent fails the formation, once", () => {
    const machine = founding(2);
    machine.handle({ kind: "request", candidate: candidate("a") });
    expect(machine.handle({ kind: "accepted", peerId: "a", digest: "[]" })).toEqual([
      { kind: "failed", reason: "peer a read another proposal than the one that was sent" },
    ]);
    expect(machine.handle({ kind: "accepted", peerId: "a", digest: "[]" })).toEqual([]);
  });

  test("of a proposal that a departure has withdrawn counts for nothing", () => {
    const machine = founding(3);
    machine.handle({ kind: "request", candidate: candidate("a") });
    const first = proposalIn(machine.handle({ kind: "request", candidate: candidate("b") }));
    machine.handle({ kind: "gone", peerId: "b" });
    const second = proposalIn(machine.handle({ kind: "request", candidate: candidate("c") }));
    expect(machine.handle({ kind: "accepted", peerId: "c", digest: viewDigest(second) })).toEqual([]);
    // a's answer to the first proposal was on its way when the second one was made.
    expect(machine.handle({ kind: "accepted", peerId: "a", digest: viewDigest(first) })).toEqual([]);
    expect(machine.handle({ kind: "accepted", peerId: "a", digest: viewDigest(second) })).toEqual([
      { kind: "decided", view: second },
    ]);
  });
});

test("a digest differs with every field that a member must agree on", () => {
  const members = [{ ...candidate("a"), node: 0 }];
  const view: FormedRing = { view: 0, members, layerCosts: [1, 2], engine: "wasm:11" };
  const others: FormedRing[] = [
    { ...view, view: 1 },
    { ...view, engine: "wasm:12" },
    { ...view, layerCosts: [2, 1] },
    { ...view, members: [{ ...candidate("b"), node: 0 }] },
    { ...view, members: [{ ...candidate("a"), node: 1 }] },
  ];
  expect(new Set([view, ...others].map(viewDigest)).size).toBe(others.length + 1);
});

/** A founder and peers that come, answer and leave as chance says; each peer's messages keep their order. */
class Crowd {
  readonly #machine: FormationMachine;
  readonly #size: number;
  readonly #random: RandomStream;
  /** Proposals that a member has not read yet, and acceptances of its that are on their way. */
  readonly #members = new Map<string, { unread: FormedRing[]; answers: string[] }>();
  #named = 0;
  decided: FormedRing | undefined;

  constructor(seed: number) {
    this.#random = new RandomStream(seed, 78);
    this.#size = 1 + this.#random.nextBelow(5);
    this.#machine = founding(this.#size);
    this.#observe(this.#machine.handle({ kind: "begin" }));
  }

  /** `mayLeave`: else nobody leaves any more. */
  step(mayLeave: boolean): void {
    const names = [...this.#members.keys()];
    const peerId = names[this.#random.nextBelow(Math.max(1, names.length))];
    const member = peerId === undefined ? undefined : this.#members.get(peerId);
    const move = this.#random.nextBelow(mayLeave ? 10 : 9);
    if (peerId === undefined || member === undefined || move < 2) return this.#arrive();
    if (move === 9) {
      this.#members.delete(peerId);
      return this.#observe(this.#machine.handle({ kind: "gone", peerId }));
    }
    if (move < 5) {
      const view = member.unread.shift();
      if (view !== undefined) member.answers.push(viewDigest(view));
      return;
    }
    const digest = member.answers.shift();
    if (digest !== undefined) this.#observe(this.#machine.handle({ kind: "accepted", peerId, digest }));
  }

  #arrive(): void {
    const isAgain = this.#named > 0 && this.#random.nextBelow(4) === 0;
    const peerId = `peer-${isAgain ? this.#random.nextBelow(this.#named) : this.#named++}`;
    const wish = this.#random.nextBelow(2) === 0 ? null : this.#random.nextBelow(6);
    const isMember = this.#members.has(peerId);
    const mustRefuse = isMember || this.decided !== undefined || this.#members.size + 1 >= this.#size;
    const outputs = this.#machine.handle({ kind: "request", candidate: candidate(peerId, { wish }) });
    expect(outputs[0]?.kind).toBe(mustRefuse ? "refuse" : "admit");
    if (!mustRefuse) this.#members.set(peerId, { unread: [], answers: [] });
    this.#observe(outputs);
  }

  #observe(outputs: readonly FormationOutput[]): void {
    for (const output of outputs) {
      expect(output.kind).not.toBe("failed");
      if (output.kind === "propose") this.#proposed(output.view);
      if (output.kind === "decided") this.#decidedOn(output.view);
    }
    expect(this.#machine.present).toBe(this.decided?.members.length ?? this.#members.size + 1);
  }

  #proposed(view: FormedRing): void {
    expect(view.members.map(({ node }) => node)).toEqual(view.members.map((_, index) => index));
    expect(view.members[0]?.peerId).toBe("founder");
    expect(view.members.map(({ peerId }) => peerId).toSorted()).toEqual(
      ["founder", ...this.#members.keys()].toSorted(),
    );
    expect(view.members.length).toBe(this.#size);
    for (const member of this.#members.values()) member.unread.push(view);
  }

  #decidedOn(view: FormedRing): void {
    expect(this.decided, "one decision").toBeUndefined();
    this.decided = view;
    expect(view.members.map(({ peerId }) => peerId).toSorted()).toEqual(
      ["founder", ...this.#members.keys()].toSorted(),
    );
    for (const { unread, answers } of this.#members.values()) {
      expect([...unread, ...answers], "everybody has read and accepted all").toEqual([]);
    }
  }
}

test.each([
  ["pinned", PINNED_SEED],
  ["fresh", freshSeed],
])("whoever comes and goes, one whole ring forms (%s seed %i)", (_, base) => {
  for (let seed = base; seed < base + FORMATIONS; seed += 1) {
    const crowd = new Crowd(seed);
    try {
      for (let event = 0; event < 60; event += 1) crowd.step(true);
      for (let event = 0; event < 2_000 && crowd.decided === undefined; event += 1) crowd.step(false);
      expect(crowd.decided).toBeDefined();
    } catch (error) {
      throw new Error(`seed ${seed}`, { cause: error });
    }
  }
});
