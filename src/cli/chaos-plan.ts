/**
 * @file Which faults `chaos` brings, and upon whom: a pure function of the seed, the fault's number and who is in the ring. A seed gives the
 * same faults; when they hit is the clock's business.
 */
import { UsageError } from "../types/errors.ts";
import { RandomPurpose, RandomStream } from "../types/random.ts";

const KINDS = ["kill", "pair", "double", "first", "last", "founder", "writer", "leave", "restart"] as const;
/** With how long, and how long it is where nothing is said. */
const LASTING = { pause: 2, cut: 5 } as const;
const SECONDS_MAX = 60;
/** A second kill comes so soon after the first. */
const DOUBLE_DELAY_MS_MAX = 500;

export type FaultKind =
  { readonly name: (typeof KINDS)[number] } | { readonly name: keyof typeof LASTING; readonly seconds: number };

/** What is done to one node, so long after the fault began. */
export interface Blow {
  readonly node: number;
  readonly delayMs: number;
  readonly deed:
    | "kill"
    | "leave"
    | { readonly pauseMs: number }
    /** Of the line to `other`, which is hit as well. */
    | { readonly cutMs: number; readonly other: number };
}

/** Who can be hit, as a whole ring is now. */
export interface Targets {
  /** In ring order. */
  readonly nodes: readonly number[];
  /** Of those, who hold layers, from the model's begin to its end. */
  readonly owners: readonly number[];
}

/** `kill,pause:2`: throws UsageError for what is no kind, or what the copies cannot survive. */
export function parseFaults(text: string, nodes: number, replicas: number): readonly FaultKind[] {
  const kinds = text.split(",").map((part) => parseFault(part.trim()));
  if (replicas === 0)
    throw new UsageError("chaos without replicas: the first fault ends the run", "use --replicas 1 or more");
  const several = kinds.find(({ name }) => name === "pair" || name === "double");
  if (several !== undefined && (replicas < 2 || nodes < 4)) {
    throw new UsageError(
      `--faults ${several.name} kills two nodes at once, and ${nodes} nodes with --replicas ${replicas} survive one`,
      "use -n 5 --replicas 2",
    );
  }
  return kinds;
}

function parseFault(text: string): FaultKind {
  const name = KINDS.find((kind) => kind === text);
  if (name !== undefined) return { name };
  const [, lasting, given] = /^(pause|cut)(?::(\d{1,3}(?:\.\d{1,3})?))?$/.exec(text) ?? [];
  if (lasting !== undefined) {
    const seconds = Number(given ?? LASTING[lasting as keyof typeof LASTING]);
    if (seconds > 0 && seconds <= SECONDS_MAX) return { name: lasting as keyof typeof LASTING, seconds };
  }
  throw new UsageError(
    `--faults "${text}": one of ${KINDS.join(", ")}, pause:SECONDS, cut:SECONDS (up to ${SECONDS_MAX}) is needed`,
    "use for example --faults kill,pause:2",
  );
}

export function faultText(kind: FaultKind): string {
  return "seconds" in kind ? `${kind.name}:${kind.seconds}` : kind.name;
}

export function nodesHit({ node, deed }: Pick<Blow, "node" | "deed">): readonly number[] {
  return typeof deed === "object" && "cutMs" in deed ? [node, deed.other] : [node];
}

/** The kind of fault `index`; each kind is as likely as the others. */
export function drawKind(kinds: readonly FaultKind[], seed: number, index: number): FaultKind {
  return kinds[new RandomStream(seed, RandomPurpose.chaos, index).nextBelow(kinds.length)]!;
}

/** What fault `index` does. One after the other where the ring is to be whole in between: `restart` hits every node. */
export function drawBlows(
  kind: FaultKind,
  targets: Targets,
  seed: number,
  index: number,
): readonly (readonly Blow[])[] {
  const random = new RandomStream(seed, RandomPurpose.chaos, index, 1);
  const { nodes, owners } = targets;
  const place = random.nextBelow(nodes.length);
  const victim = nodes[place]!;
  const next = nodes[(place + 1) % nodes.length]!;
  const kill = (node: number, delayMs = 0): Blow => ({ node, delayMs, deed: "kill" });
  switch (kind.name) {
    case "kill":
      return [[kill(victim)]];
    case "pair":
      return [[kill(victim), kill(next)]];
    case "double": {
      const others = nodes.filter((node) => node !== victim);
      const second = others[random.nextBelow(others.length)]!;
      return [[kill(victim), kill(second, random.nextBelow(DOUBLE_DELAY_MS_MAX + 1))]];
    }
    case "first":
      return [[kill(owners[0]!)]];
    case "last":
      return [[kill(owners.at(-1)!)]];
    case "founder":
      return [[kill(0)]];
    case "writer":
      return [[kill(Math.min(...nodes))]];
    case "leave":
      return [[{ node: victim, delayMs: 0, deed: "leave" }]];
    case "restart":
      return nodes.map((node) => [{ node, delayMs: 0, deed: "leave" }]);
    case "pause":
      return [[{ node: victim, delayMs: 0, deed: { pauseMs: 1000 * kind.seconds } }]];
    case "cut":
      return [[{ node: victim, delayMs: 0, deed: { cutMs: 1000 * kind.seconds, other: next } }]];
  }
}
