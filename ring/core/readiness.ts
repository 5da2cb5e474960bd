/**
 * @file Who is ready for a view, and for want of whom it cannot begin: where nothing gets any further each member names those that are not ready, as
 * far as it knows. Whom two name, itself included, the ring goes on without; one alone may be cut off, or be the one that stands still.
 */
const NAMING_MIN = 2;
/** How long nothing at all may arrive, in an install anywhere in the ring: bytes, layers and losses count, however slowly they come. */
export const STILL_MS = 30_000;

export class Readiness {
  readonly #members: readonly number[];
  readonly #ready = new Set<number>();
  readonly #namedBy = new Map<number, readonly number[]>();

  constructor(members: readonly number[]) {
    this.#members = members;
  }

  /** As these nodes said, or others heard them say: two that do not reach each other would keep the view from beginning. */
  add(nodes: readonly number[]): void {
    for (const node of nodes) this.#ready.add(node);
  }

  get ready(): readonly number[] {
    return [...this.#ready];
  }

  get missing(): readonly number[] {
    return this.#members.filter((node) => !this.#ready.has(node));
  }

  /** `by` says that the view cannot begin for want of these. What it says takes the place of what it said before. */
  name(by: number, nodes: readonly number[]): void {
    this.#namedBy.set(by, nodes);
  }

  /** Members that two name, unless they got ready after all. */
  get stragglers(): readonly number[] {
    const naming = [...this.#namedBy.values()];
    return this.missing.filter((node) => naming.filter((nodes) => nodes.includes(node)).length >= NAMING_MIN);
  }
}

/** Whether an install stands still: for so long nobody whom this node hears of has got any further. */
export class InstallClock {
  #sinceMs: number;
  /** By member, how far it was. */
  readonly #reached = new Map<number, number>();

  constructor(nowMs: number) {
    this.#sinceMs = nowMs;
  }

  /** @param progress counts up, by whatever arrives */
  reached(node: number, progress: number, nowMs: number): void {
    if (this.#reached.get(node) !== progress) this.#sinceMs = nowMs;
    this.#reached.set(node, progress);
  }

  /** This process stood still itself, and heard of nobody. */
  overslept(nowMs: number): void {
    this.#sinceMs = nowMs;
  }

  /** Undefined while something arrives. */
  stillMs(nowMs: number): number | undefined {
    const forMs = nowMs - this.#sinceMs;
    return forMs > STILL_MS ? forMs : undefined;
  }
}
