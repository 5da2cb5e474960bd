/** @file A scenario of a simulated ring with faults: plain data, so that it can be drawn from a seed, shrunk, and kept in a file. */
import { RandomStream } from "../../src/types/random.ts";

/** Where a process can be made to stop: the names of places in its life, as RECOVERY lists them. */
export const CRASH_POINTS = [
  "promiseWriting",
  "promiseDurable",
  "acceptWriting",
  "acceptDurable",
  "viewWriting",
  "viewDurable",
  "reportedWriting",
  "reportedDurable",
  "prepared",
  "acceptSent",
  "decided",
  "keeping",
  "kept",
  "fetching",
  "fetched",
  "serving",
  "loading",
  "loaded",
  "filling",
  "filled",
  "started",
  "updating",
  "updated",
  "applying",
  "applied",
  "gradientSent",
  "tokenSent",
  "committed",
  "settled",
] as const;
export type CrashPoint = (typeof CRASH_POINTS)[number];
/** Those of the decision on a view. */
const VOTE_POINTS = CRASH_POINTS.slice(0, 6).concat("prepared", "acceptSent", "acceptSent", "decided", "decided");

/** `peer`: in order of arrival. `restartMs`: how long its process is down; null: for ever. `wipe`: its disk is lost too. */
export type Fault =
  | {
      readonly kind: "crash";
      readonly atMs: number;
      readonly peer: number;
      readonly restartMs: number | null;
      readonly wipe: boolean;
    }
  /** The `nth` time from `atMs` on that it comes there. */
  | {
      readonly kind: "crashPoint";
      readonly atMs: number;
      readonly peer: number;
      readonly point: CrashPoint;
      readonly nth: number;
      readonly restartMs: number | null;
      readonly wipe: boolean;
    }
  /** Nothing is handled, then everything at once. */
  | { readonly kind: "pause"; readonly atMs: number; readonly peer: number; readonly forMs: number }
  /** Frames from every peer of one side to every one of the other get nowhere; with `drops` those on their way are lost. */
  | {
      readonly kind: "cut";
      readonly atMs: number;
      readonly from: readonly number[];
      readonly to: readonly number[];
      readonly isOneWay: boolean;
      readonly drops: boolean;
      readonly forMs: number;
    }
  | { readonly kind: "join"; readonly atMs: number }
  | { readonly kind: "leave"; readonly atMs: number; readonly peer: number }
  /** Another cut is wanted. `choice` picks it. */
  | { readonly kind: "recut"; readonly atMs: number; readonly choice: number }
  | { readonly kind: "flip"; readonly atMs: number; readonly peer: number; readonly choice: number }
  | {
      readonly kind: "slowDisk";
      readonly atMs: number;
      readonly peer: number;
      readonly forMs: number;
      readonly delayMs: number;
    }
  | { readonly kind: "badDisk"; readonly atMs: number; readonly peer: number; readonly forMs: number }
  /** Its replicas follow late. */
  | {
      readonly kind: "slowCompute";
      readonly atMs: number;
      readonly peer: number;
      readonly forMs: number;
      readonly delayMs: number;
    };

export interface RecoveryScenario {
  readonly seed: number;
  readonly nodes: number;
  readonly replicas: number;
  readonly owners: number;
  readonly laps: number;
  readonly layers: number;
  /** Longest delay of a usual frame; one in fifty takes ten times as long. */
  readonly delayMs: number;
  /** Of control frames, in thousandths. */
  readonly lossPermille: number;
  readonly duplicatePermille: number;
  readonly diskMs: number;
  readonly stageMs: number;
  /** Faults that would take the last copies, or the majority, do not happen. */
  readonly isWithinBudget: boolean;
  readonly faults: readonly Fault[];
  readonly healMs: number;
}

const HEAL_MS = 4_000;

export function drawScenario(seed: number): RecoveryScenario {
  const random = new RandomStream(seed, 4_711);
  const pick = <T>(values: readonly T[]): T => values[random.nextBelow(values.length)]!;
  const nodes = pick([1, 2, 2, 3, 3, 3, 4, 4, 5, 5, 5, 6, 7]);
  const owners = random.nextBelow(4) === 0 ? 1 + random.nextBelow(nodes) : nodes;
  const laps = pick([1, 1, 1, 2, 2, 3]);
  const scenario = {
    ...{ seed, nodes, owners, laps, layers: owners * laps + random.nextBelow(3) },
    replicas: Math.min(nodes - 1, pick([0, 1, 1, 1, 2, 2, 2, 2, 3])),
    delayMs: pick([1, 1, 5, 20]),
    lossPermille: pick([0, 0, 0, 10, 100]),
    duplicatePermille: pick([0, 0, 10, 100]),
    diskMs: pick([1, 5, 5, 40]),
    stageMs: pick([5, 15, 15, 40]),
    isWithinBudget: random.nextBelow(6) !== 0,
    healMs: HEAL_MS,
  };
  const kind = pick(["any", "any", "any", "any", "storm", "storm", "neighbours"] as const);
  if (kind === "storm") return { ...scenario, ...drawStorm(random) };
  if (kind === "neighbours") return { ...scenario, faults: drawNeighbours(random, nodes) };
  const count = pick([0, 1, 2, 3, 4, 5, 6, 8, 10, 12]);
  // Many faults soon after each other, or a few apart.
  const spanMs = pick([400, 1_500, 1_500, HEAL_MS - 1_000]);
  const startMs = random.nextBelow(HEAL_MS - 500 - Math.min(spanMs, HEAL_MS - 1_000));
  const faults = Array.from({ length: count }, () => drawFault(random, nodes, startMs, spanMs));
  return { ...scenario, faults: inOrder(compatible(faults, scenario.replicas, random.nextBelow(4) === 0)) };
}

const inOrder = (faults: readonly Fault[]): readonly Fault[] => faults.toSorted((a, b) => a.atMs - b.atMs);

/** Proposers and voters that stop in the middle of a decision and come back at once: what was told to a few only. */
function drawStorm(random: RandomStream): Omit<RecoveryScenario, "seed" | "delayMs" | "stageMs"> {
  const pick = <T>(values: readonly T[]): T => values[random.nextBelow(values.length)]!;
  const nodes = pick([2, 3, 3, 3, 4, 5]);
  const atMs = 100 + random.nextBelow(500);
  const faults: Fault[] = [
    { kind: "crash", atMs, peer: random.nextBelow(nodes), restartMs: pick([30, 300, null]), wipe: false },
  ];
  for (let count = 2 + random.nextBelow(6); count > 0; count -= 1) {
    const [peer, point, restartMs] = [random.nextBelow(nodes), pick(VOTE_POINTS), pick([1, 1, 30])];
    faults.push({ kind: "crashPoint", atMs, peer, point, nth: 1 + random.nextBelow(4), restartMs, wipe: false });
  }
  for (let count = random.nextBelow(3); count > 0; count -= 1) {
    const [peer, delayMs] = [random.nextBelow(nodes), pick([50, 200, 600])];
    faults.push({ kind: "slowDisk", atMs, peer, forMs: 1_000, delayMs });
  }
  for (let count = random.nextBelow(3); count > 0; count -= 1) {
    const cut = { atMs: atMs + random.nextBelow(900), forMs: pick([50, 300, 900]), drops: pick([true, false]) };
    faults.push({ kind: "cut", ...cut, ...drawSides(random, nodes), isOneWay: pick([true, false]) });
  }
  const shape = { nodes, owners: nodes, laps: 1, layers: nodes, replicas: Math.min(nodes - 1, 2) };
  const lossPermille = pick([0, 100, 300]);
  const duplicatePermille = pick([0, 100, 400]);
  return {
    ...shape,
    isWithinBudget: false,
    lossPermille,
    duplicatePermille,
    diskMs: pick([1, 5, 40]),
    healMs: 3_000,
    faults: inOrder(faults),
  };
}

/** Somebody is evicted, and soon after neighbours die at once; as many as the replicas bear, or one more. */
function drawNeighbours(random: RandomStream, nodes: number): readonly Fault[] {
  const pick = <T>(values: readonly T[]): T => values[random.nextBelow(values.length)]!;
  const atMs = 200 + random.nextBelow(500);
  const faults: Fault[] = [];
  const away = random.nextBelow(nodes);
  if (random.nextBelow(2) === 0) faults.push({ kind: "pause", atMs, peer: away, forMs: 700 + random.nextBelow(1_500) });
  else faults.push({ kind: "crash", atMs, peer: away, restartMs: pick([1, 300, null]), wipe: false });
  const first = random.nextBelow(nodes);
  const soonMs = atMs + pick([0, 600, 1_000]) + random.nextBelow(500);
  const point = pick(["settled", "committed", "started", "applied", "updated", "kept", "loaded", "filled"] as const);
  for (let index = 0; index < pick([1, 2, 2, 3]); index += 1) {
    const peer = (first + index) % nodes;
    const down = { restartMs: pick([30, 300, 1_500]), wipe: random.nextBelow(4) === 0 };
    if (random.nextBelow(3) === 0) faults.push({ kind: "crash", atMs: soonMs + random.nextBelow(40), peer, ...down });
    else
      faults.push({
        kind: "crashPoint",
        atMs: pick([atMs, soonMs]),
        peer,
        point,
        nth: 1 + random.nextBelow(2),
        ...down,
      });
  }
  return inOrder(faults);
}

/** A flip is noticed by another copy, if that lives: one fault of two kinds at once is beyond what is promised. */
function compatible(faults: readonly Fault[], replicas: number, isFlipped: boolean): readonly Fault[] {
  const flip = replicas > 0 && isFlipped ? faults.find(({ kind }) => kind === "flip") : undefined;
  if (flip === undefined) return faults.filter(({ kind }) => kind !== "flip");
  return [flip, ...faults.filter(({ kind }) => kind === "recut" || kind === "join" || kind === "slowCompute")];
}

function drawFault(random: RandomStream, nodes: number, startMs: number, spanMs: number): Fault {
  const pick = <T>(values: readonly T[]): T => values[random.nextBelow(values.length)]!;
  const atMs = startMs + random.nextBelow(spanMs);
  const peer = random.nextBelow(nodes + (random.nextBelow(5) === 0 ? 2 : 0));
  const forMs = pick([50, 300, 900, 2_500]) + random.nextBelow(300);
  const down = { restartMs: pick([1, 30, 300, 1_500, null]), wipe: random.nextBelow(6) === 0 };
  const kind = pick([
    ...(["crash", "crash", "crashPoint", "crashPoint", "crashPoint", "crashPoint", "pause", "cut", "cut"] as const),
    ...(["join", "leave", "recut", "flip", "slowDisk", "badDisk", "slowCompute"] as const),
  ]);
  switch (kind) {
    case "crash":
      return { kind, atMs, peer, ...down };
    case "crashPoint":
      return { kind, atMs, peer, point: pick(CRASH_POINTS), nth: 1 + random.nextBelow(3), ...down };
    case "cut":
      return {
        kind,
        atMs,
        ...drawSides(random, nodes),
        isOneWay: pick([true, false]),
        drops: pick([true, false]),
        forMs,
      };
    case "join":
      return { kind, atMs };
    case "recut":
      return { kind, atMs, choice: random.nextBelow(1_000) };
    case "flip":
      return { kind, atMs, peer, choice: random.nextBelow(1_000) };
    case "slowDisk":
      return { kind, atMs, peer, forMs, delayMs: pick([50, 200, 1_000]) };
    case "slowCompute":
      return { kind, atMs, peer, forMs, delayMs: pick([50, 300]) };
    case "leave":
      return { kind, atMs, peer };
    case "pause":
    case "badDisk":
      return { kind, atMs, peer, forMs };
  }
}

/** One link, or two sides of the ring. */
function drawSides(
  random: RandomStream,
  nodes: number,
): { readonly from: readonly number[]; readonly to: readonly number[] } {
  const peers = Array.from({ length: nodes }, (_, peer) => peer);
  const one = random.nextBelow(nodes);
  if (random.nextBelow(2) === 0)
    return { from: [one], to: [(one + 1 + random.nextBelow(Math.max(1, nodes - 1))) % nodes] };
  const side = peers.filter(() => random.nextBelow(2) === 0);
  const from = side.length === 0 || side.length === nodes ? [one] : side;
  return { from, to: peers.filter((peer) => !from.includes(peer)) };
}
