/** @file Failure detection case by case; phi against a normal distribution that is integrated numerically; quarantine by hand. */
import { describe, expect, test } from "vitest";
import {
  ANSWER_WAIT_MS,
  DetectorMachine,
  HELPERS_MAX,
  LAG_MS_START,
  LAG_WEIGHT,
  OVERSLEPT_MS,
  PROBE_REPEAT_MS,
  SEVERED_ROUNDS,
  SUSPICION_MS,
  type DetectorInput,
  type DetectorOutput,
} from "../../ring/core/detector.ts";
import { ArrivalIntervals, INTERVAL_MS_MAX, INTERVALS_MAX, PHI_LIMIT } from "../../ring/core/phi.ts";
import {
  FLAP_MEMORY_MS,
  FLAPPERS_MAX,
  Quarantine,
  REFUSAL_MS_MAX,
  REFUSAL_MS_MIN,
} from "../../ring/core/quarantine.ts";

type Event = DetectorInput extends infer Input ? (Input extends unknown ? Omit<Input, "nowMs"> : never) : never;

/** Node 0 of a ring; time goes on in ticks of 50 ms, in which the nodes that beat are heard every 100 ms. */
class Scene {
  readonly machine: DetectorMachine;
  readonly beating: Set<number>;
  nowMs = 1_000;

  constructor(size: number, watched: readonly number[], lagMs = 0) {
    const members = Array.from({ length: size }, (_, node) => node);
    this.machine = new DetectorMachine({ node: 0, members, watched, lagMs, nowMs: this.nowMs });
    this.beating = new Set(watched);
  }

  give(event: Event): readonly DetectorOutput[] {
    return this.machine.handle({ ...event, nowMs: this.nowMs });
  }

  /** Up to the first output, or to `forMs`. */
  until(forMs: number): readonly DetectorOutput[] {
    const endMs = this.nowMs + forMs;
    while (this.nowMs + 50 <= endMs) {
      this.nowMs += 50;
      const beats = this.nowMs % 100 === 0 ? [...this.beating] : [];
      const heard = beats.flatMap((node) => this.give({ kind: "heard", node }));
      const outputs = [...heard, ...this.give({ kind: "tick" })];
      if (outputs.length > 0) return outputs;
    }
    return [];
  }

  /** All others answer a round about `node`. */
  answer(node: number, answers: Readonly<Record<number, boolean>>): readonly DetectorOutput[] {
    return Object.entries(answers).flatMap(([by, alive]) => this.give({ kind: "probed", node, by: Number(by), alive }));
  }
}

const probes = (target: number, ...by: readonly number[]): unknown =>
  expect.arrayContaining(by.map((helper) => ({ kind: "probe", target, by: helper })));

const silentScene = (): Scene => {
  const scene = new Scene(5, [1, 3, 4]);
  expect(scene.until(3_000)).toEqual([]);
  scene.beating.delete(1);
  return scene;
};

describe("hard evidence", () => {
  test("a closed stream is redialed, and a refused redial is suspicion at once", () => {
    const scene = new Scene(3, [1, 2]);
    scene.until(1_000);
    expect(scene.give({ kind: "closed", node: 1 })).toEqual([{ kind: "redial", node: 1 }]);
    expect(scene.give({ kind: "closed", node: 1 })).toEqual([]);
    scene.nowMs += 3;
    const suspect = { kind: "suspect", node: 1, cause: "closed", lastHeardMs: 2_000 };
    expect(scene.give({ kind: "redialed", node: 1, outcome: "refused" })).toEqual([suspect]);
    expect(scene.give({ kind: "closed", node: 1 })).toEqual([]);
  });

  test("a redial that is answered is none", () => {
    const scene = new Scene(3, [1, 2]);
    scene.give({ kind: "closed", node: 1 });
    expect(scene.give({ kind: "redialed", node: 1, outcome: "answered" })).toEqual([]);
    expect(scene.until(2_000)).toEqual([]);
    expect(scene.give({ kind: "closed", node: 1 })).toEqual([{ kind: "redial", node: 1 }]);
  });

  test("nor does an answer count as a sign of life: a peer that only accepts connections is silent", () => {
    const scene = silentScene();
    scene.until(300);
    scene.give({ kind: "closed", node: 1 });
    scene.give({ kind: "redialed", node: 1, outcome: "answered" });
    expect(scene.until(350)).toEqual(probes(1, 3, 4));
  });

  test("a frame that was still in a buffer brings trust and another redial", () => {
    const scene = new Scene(3, [1, 2]);
    scene.give({ kind: "closed", node: 1 });
    scene.give({ kind: "redialed", node: 1, outcome: "refused" });
    const outputs = scene.give({ kind: "heard", node: 1 });
    expect(outputs.map(({ kind }) => kind)).toEqual(["trust", "redial"]);
    expect(scene.give({ kind: "redialed", node: 1, outcome: "refused" })).toMatchObject([{ kind: "suspect" }]);
  });

  test("a refused redial from before this node slept is tried again; one from after it counts at once", () => {
    const scene = new Scene(3, [1, 2]);
    scene.give({ kind: "closed", node: 1 });
    scene.nowMs += OVERSLEPT_MS + 1;
    const outputs = scene.give({ kind: "redialed", node: 1, outcome: "refused" });
    expect(outputs).toEqual([
      { kind: "overslept", sleptMs: OVERSLEPT_MS + 1 },
      { kind: "redial", node: 1 },
    ]);
    expect(scene.give({ kind: "redialed", node: 1, outcome: "refused" })).toMatchObject([{ cause: "closed" }]);
  });

  test("who was silent and is then refused is suspected for that too", () => {
    const scene = silentScene();
    scene.until(700);
    scene.answer(1, { 2: false, 3: false, 4: false });
    scene.give({ kind: "closed", node: 1 });
    expect(scene.give({ kind: "redialed", node: 1, outcome: "refused" })).toMatchObject([{ cause: "closed" }]);
  });
});

describe("soft evidence", () => {
  test("silence beyond the limit asks those heard last, and a majority that says dead is suspicion", () => {
    const scene = silentScene();
    const heardMs = scene.nowMs;
    const asked = scene.until(2_000);
    expect(scene.nowMs).toBe(heardMs + SUSPICION_MS + 50);
    expect(asked).toEqual(probes(1, 2, 3, 4));
    expect(scene.give({ kind: "probed", node: 1, by: 3, alive: false })).toEqual([]);
    const suspect = { kind: "suspect", node: 1, cause: "silent", lastHeardMs: heardMs };
    expect(scene.give({ kind: "probed", node: 1, by: 4, alive: false })).toEqual([suspect]);
    expect(scene.until(5_000)).toEqual([]);
    expect(scene.give({ kind: "heard", node: 1 })).toEqual([{ kind: "trust", node: 1 }]);
  });

  test("as many who say alive are enough, and it is asked again later", () => {
    const scene = silentScene();
    scene.until(700);
    expect(scene.answer(1, { 3: true, 4: false })).toEqual([]);
    expect(scene.until(ANSWER_WAIT_MS)).toEqual([]);
    const againMs = ANSWER_WAIT_MS + 50 + PROBE_REPEAT_MS;
    const beforeMs = scene.nowMs - ANSWER_WAIT_MS;
    expect(scene.until(2_000)).toEqual(probes(1, 2, 3, 4));
    expect(scene.nowMs - beforeMs).toBe(againMs);
  });

  test("who is heard elsewhere, round after round, is severed from here; one frame brings trust", () => {
    const scene = silentScene();
    const heardMs = scene.nowMs;
    for (let round = 1; round < SEVERED_ROUNDS; round += 1) {
      expect(scene.until(2_000)).toEqual(probes(1, 2, 3, 4));
      expect(scene.answer(1, { 2: true, 3: true, 4: true })).toEqual([]);
    }
    expect(scene.until(2_000)).toEqual(probes(1, 2, 3, 4));
    const suspect = { kind: "suspect", node: 1, cause: "severed", lastHeardMs: heardMs };
    expect(scene.answer(1, { 2: true, 3: true, 4: true })).toEqual([suspect]);
    expect(scene.until(5_000)).toEqual([]);
    expect(scene.give({ kind: "heard", node: 1 })).toEqual([{ kind: "trust", node: 1 }]);
    expect(scene.until(30_000), "its heartbeats were seldom, so more patience is due").toEqual(probes(1, 2, 3, 4));
    expect(scene.answer(1, { 2: true, 3: true, 4: true }), "it is counted anew").toEqual([]);
  });

  test("of a peer whose heartbeats do not come here nothing is severed", () => {
    const scene = new Scene(5, [1, 3, 4]);
    scene.until(1_000);
    for (let round = 0; round <= SEVERED_ROUNDS; round += 1) {
      scene.give({ kind: "accused", node: 2, by: 3 });
      scene.until(2_000);
      expect(scene.answer(2, { 1: true, 3: true, 4: true })).toEqual([]);
    }
  });

  test("one answer counts when no other comes; those of strangers and those twice do not", () => {
    const scene = silentScene();
    scene.until(700);
    scene.answer(1, { 3: false });
    scene.answer(1, { 3: false, 1: false, 9: false });
    scene.give({ kind: "probed", node: 9, by: 3, alive: false });
    expect(scene.until(ANSWER_WAIT_MS)).toEqual([]);
    expect(scene.until(50)).toMatchObject([{ kind: "suspect", node: 1 }]);
  });

  test.each([
    ["nobody can be asked", 2],
    ["none of the asked answers", 3],
  ])("twice the gap is needed where %s", (_, size) => {
    const scene = new Scene(size, [1]);
    scene.until(3_000);
    scene.beating.delete(1);
    const heardMs = scene.nowMs;
    let outputs = scene.until(5_000);
    while (outputs[0]?.kind === "probe") outputs = scene.until(5_000);
    expect(outputs).toMatchObject([{ kind: "suspect", node: 1, cause: "silent" }]);
    expect(scene.nowMs - heardMs).toBeGreaterThan(2 * SUSPICION_MS);
    expect(scene.nowMs - heardMs).toBeLessThanOrEqual(2 * SUSPICION_MS + ANSWER_WAIT_MS + 100);
  });

  test("no more than three are asked, and no suspect", () => {
    const scene = new Scene(8, [1, 6, 7]);
    scene.until(1_000);
    scene.give({ kind: "closed", node: 7 });
    scene.give({ kind: "redialed", node: 7, outcome: "refused" });
    scene.beating.delete(1);
    scene.beating.delete(7);
    const asked = scene.until(1_000);
    expect(asked).toHaveLength(HELPERS_MAX);
    expect(asked).toContainEqual({ kind: "probe", target: 1, by: 6 });
    expect(asked).not.toContainEqual({ kind: "probe", target: 1, by: 7 });
  });

  test("lag lengthens the limit, and fades", () => {
    const scene = silentScene();
    scene.nowMs += 300;
    const silentMs = 300;
    for (const node of scene.beating) scene.give({ kind: "heard", node });
    expect(scene.give({ kind: "tick" })).toEqual([]);
    expect(scene.until(SUSPICION_MS + LAG_WEIGHT * 150 - silentMs)).toEqual([]);
    expect(scene.until(LAG_WEIGHT * 100)).toEqual(probes(1, 3, 4));
    expect(scene.machine.lagMs).toBeGreaterThan(150);
    scene.give({ kind: "heard", node: 1 });
    scene.beating.add(1);
    // The frame of the peer that was silent has shown a longer stall.
    scene.until(120_000);
    expect(scene.machine.lagMs).toBe(0);
  });

  test("what the view before remembers counts", () => {
    const scene = new Scene(3, [1, 2], LAG_MS_START);
    scene.beating.delete(1);
    expect(scene.until(SUSPICION_MS + LAG_WEIGHT * LAG_MS_START - 150)).toEqual([]);
    expect(scene.until(300)).toEqual(probes(1, 2));
  });
});

describe("a node that overslept", () => {
  test("says so, and accuses nobody before it has heard frames for a full suspicion time", () => {
    const scene = silentScene();
    scene.until(500);
    scene.beating.clear();
    scene.nowMs += 700;
    expect(scene.give({ kind: "tick" })).toEqual([{ kind: "overslept", sleptMs: 700 }]);
    expect(scene.until(60_000)).toEqual([]);
    scene.give({ kind: "heard", node: 3 });
    const freshMs = scene.nowMs;
    expect(scene.until(2_000)[0]).toMatchObject({ kind: "probe" });
    expect(scene.nowMs - freshMs).toBeGreaterThanOrEqual(SUSPICION_MS);
  });

  test("learns no interval and no lag from it", () => {
    const scene = new Scene(3, [1, 2]);
    for (let sleep = 0; sleep < 20; sleep += 1) {
      expect(scene.until(1_500)).toEqual([]);
      scene.nowMs += 2_000;
      expect(scene.give({ kind: "tick" })).toMatchObject([{ kind: "overslept" }]);
    }
    scene.until(1_500);
    scene.beating.delete(1);
    expect(scene.until(SUSPICION_MS + 50)).toEqual(probes(1, 2));
  });
});

describe("an accusation", () => {
  test("asks for a probe of one's own, at most every half second, and none of itself or of strangers", () => {
    const scene = new Scene(5, [1, 4]);
    const own = [{ kind: "probe", target: 2, by: 0 }];
    expect(scene.give({ kind: "accused", node: 2, by: 1 })).toEqual(own);
    expect(scene.give({ kind: "accused", node: 2, by: 4 })).toEqual([]);
    expect(scene.give({ kind: "accused", node: 0, by: 4 })).toEqual([]);
    expect(scene.give({ kind: "accused", node: 9, by: 4 })).toEqual([]);
    expect(scene.give({ kind: "probed", node: 2, by: 0, alive: true })).toEqual([]);
    expect(scene.until(5_000)).toEqual([]);
    expect(scene.give({ kind: "accused", node: 2, by: 4 })).toEqual(own);
  });

  test("of a peer that sends no heartbeats here needs own silence and others; it is probed until it answers", () => {
    const scene = new Scene(5, [1, 4]);
    scene.until(10_000);
    scene.give({ kind: "accused", node: 2, by: 1 });
    expect(scene.give({ kind: "probed", node: 2, by: 0, alive: false })).toEqual([]);
    expect(scene.until(SUSPICION_MS)).toEqual([]);
    expect(scene.until(50)).toEqual(probes(2, 1, 3, 4));
    expect(scene.answer(2, { 1: false, 4: false })).toMatchObject([{ kind: "suspect", node: 2, cause: "silent" }]);
    expect(scene.until(PROBE_REPEAT_MS + 50)).toEqual([{ kind: "probe", target: 2, by: 0 }]);
    const trust = { kind: "trust", node: 2 };
    expect(scene.give({ kind: "probed", node: 2, by: 0, alive: true })).toEqual([trust]);
    expect(scene.until(5_000)).toEqual([]);
  });
});

describe("phi", () => {
  /** -log10 of the normal distribution's tail, by adding up the density in small steps. */
  function phiOf(deviations: number): number {
    const step = 1e-4;
    let tail = 0;
    for (let at = deviations + step / 2; at < deviations + 8; at += step) tail += step * Math.exp(-(at ** 2) / 2);
    return -Math.log10(tail / Math.sqrt(2 * Math.PI));
  }

  test("the limit is the silence at which the integrated tail is 10^-8", () => {
    const intervals = new ArrivalIntervals();
    const valuesMs = Array.from({ length: 70 }, (_, index) => 100 + ((index * 37) % 100));
    for (const value of valuesMs) intervals.add(value);
    const mean = valuesMs.reduce((sum, value) => sum + value) / valuesMs.length;
    const variance = valuesMs.reduce((sum, value) => sum + (value - mean) ** 2, 0) / valuesMs.length;
    // The steps of the integral are worth 1e-7 of phi.
    expect(phiOf((intervals.limitMs - mean) / Math.sqrt(variance))).toBeCloseTo(PHI_LIMIT, 5);
  });

  test("the deviation has a floor, two intervals are needed, and an outage counts for five seconds", () => {
    const intervals = new ArrivalIntervals();
    intervals.add(100);
    expect(intervals.limitMs).toBe(0);
    intervals.add(100);
    expect(phiOf((intervals.limitMs - 100) / 20)).toBeCloseTo(PHI_LIMIT, 5);
    intervals.add(60_000);
    const capped = new ArrivalIntervals();
    for (const value of [100, 100, INTERVAL_MS_MAX]) capped.add(value);
    expect(intervals.limitMs).toBe(capped.limitMs);
  });

  test("only the newest hundred count", () => {
    const intervals = new ArrivalIntervals();
    const fresh = new ArrivalIntervals();
    for (let count = 0; count < 30; count += 1) intervals.add(4_000);
    for (let count = 0; count < INTERVALS_MAX; count += 1) {
      expect(intervals.limitMs).toBeGreaterThan(1_000);
      intervals.add(100);
      fresh.add(100);
    }
    expect(intervals.limitMs).toBe(fresh.limitMs);
  });
});

describe("quarantine", () => {
  test("begins with the third soft eviction within a minute, doubles up to five minutes, and ends with a good minute", () => {
    const quarantine = new Quarantine();
    let nowMs = 0;
    const evict = (afterMs: number): number | undefined => {
      nowMs += afterMs;
      quarantine.evicted("peer", "silent", nowMs);
      const untilMs = quarantine.refusedUntilMs("peer", nowMs);
      return untilMs === undefined ? undefined : untilMs - nowMs;
    };
    expect(evict(0)).toBeUndefined();
    expect(evict(30_000)).toBeUndefined();
    expect(evict(FLAP_MEMORY_MS - 30_000)).toBe(REFUSAL_MS_MIN);
    for (let refusalMs = 2 * REFUSAL_MS_MIN; refusalMs < REFUSAL_MS_MAX; refusalMs *= 2) {
      expect(evict(refusalMs / 2 + 59_000)).toBe(refusalMs);
    }
    expect(evict(200_000)).toBe(REFUSAL_MS_MAX);
    expect(evict(300_000)).toBe(REFUSAL_MS_MAX);
    expect(quarantine.refusedUntilMs("peer", nowMs + REFUSAL_MS_MAX)).toBeUndefined();
    expect(quarantine.refusedUntilMs("other", nowMs)).toBeUndefined();
    expect(evict(REFUSAL_MS_MAX + FLAP_MEMORY_MS + 1)).toBeUndefined();
    expect(evict(1)).toBeUndefined();
    expect(evict(1)).toBe(REFUSAL_MS_MIN);
  });

  test("three evictions in more than a minute are none, and crashes never count", () => {
    const quarantine = new Quarantine();
    for (const nowMs of [0, 30_001, 60_001, 90_002]) {
      quarantine.evicted("slow", "silent", nowMs);
      expect(quarantine.refusedUntilMs("slow", nowMs)).toBeUndefined();
    }
    for (let nowMs = 0; nowMs < 10; nowMs += 1) quarantine.evicted("crashing", "closed", nowMs);
    expect(quarantine.refusedUntilMs("crashing", 10)).toBeUndefined();
  });

  test("remembers so many peers, the newest", () => {
    const quarantine = new Quarantine();
    const evict = (peerId: string): void => quarantine.evicted(peerId, "silent", 0);
    for (let time = 0; time < 3; time += 1) for (const peerId of ["old", "kept"]) evict(peerId);
    for (let other = 0; other < FLAPPERS_MAX - 1; other += 1) evict(`other ${other}`);
    expect(quarantine.refusedUntilMs("old", 0)).toBeUndefined();
    expect(quarantine.refusedUntilMs("kept", 0)).toBe(REFUSAL_MS_MIN);
  });
});
