/** @file A worker of simulated servers that die: it pulls, computes for a while, pushes, and asks anew where keys lie elsewhere. */
import { leastVersion } from "../../baseline-ps/core/consistency.ts";
import { piecesOf } from "../../baseline-ps/core/key-map.ts";
import type { KeyRange, RangeSet } from "../../baseline-ps/core/ranges.ts";
import { Requests, type RequestsInput } from "../../baseline-ps/core/requests.ts";
import type { Shares } from "./chain-checker.ts";
import type { Asked, ChainSimulation, View } from "./chain-simulation.ts";

/** One process: what comes to it while it stands still waits. */
export class Process {
  isAlive = true;
  pausedUntilMs = 0;
}

export interface Work {
  readonly step: number;
  readonly share: number;
}

export class Worker extends Process {
  readonly number: number;
  readonly #world: ChainSimulation;
  readonly #requests = new Requests({ resendMs: Infinity, openMax: 64 });
  readonly #what = new Map<
    number,
    {
      readonly range: KeyRange;
      readonly asked: (keys: RangeSet) => Omit<Asked, "timestamp" | "oldest">;
      readonly finished: () => void;
    }
  >();
  #view: View | undefined;
  readonly queue: Work[] = [];
  #current: Work | undefined;

  constructor(world: ChainSimulation, number: number) {
    super();
    this.#world = world;
    this.number = number;
  }

  adopt(view: View): void {
    this.#view = view;
    for (const [timestamp, { range }] of this.#what) {
      const servers = piecesOf(view.map, range).map(({ server }) => server);
      this.#drive({ kind: "cut", timestamp, servers, nowMs: 0 });
    }
    this.work();
  }

  work(): void {
    if (!this.isAlive || this.#current !== undefined || this.#view === undefined) return;
    const work = this.queue.shift();
    this.#current = work;
    if (work !== undefined) this.#pull(work);
  }

  /** What waits for parameters gives way to a share without which they never come. */
  inherit(works: readonly Work[]): void {
    this.queue.push(...works);
    if (this.#current !== undefined && this.#isWaiting) this.queue.push({ ...this.#current });
    if (this.#isWaiting) this.#current = undefined;
    this.queue.sort((a, b) => a.step - b.step || a.share - b.share);
    this.work();
  }

  #isWaiting = false;

  #pull(work: Work): void {
    this.#isWaiting = true;
    const { checker, scenario, layers } = this.#world;
    const least = leastVersion(scenario.consistency, work.step);
    let missing = layers.length;
    for (const range of layers) {
      const atLeast = checker.acknowledgedOf(range);
      this.#issue(
        range,
        (keys) => ({ kind: "pull", client: this.number, leastVersion: least, keys }),
        (version, shares) => checker.read(work.step, version!, shares, atLeast),
        () => {
          missing -= 1;
          if (missing > 0 || this.#current !== work) return;
          this.#isWaiting = false;
          this.#world.later(this, this.#world.random.nextFloat() * 20, () => this.#push(work));
        },
      );
    }
  }

  #push(work: Work): void {
    const { checker, layers } = this.#world;
    let missing = layers.length;
    for (const range of layers.toReversed()) {
      const timestamp = this.#requests.next;
      checker.pushes(this.number, timestamp, { ...work, keys: [range] });
      this.#issue(
        range,
        (keys) => ({ kind: "push", client: this.number, ...work, keys }),
        () => {},
        () => {
          missing -= 1;
          if (missing > 0) return;
          this.#world.done(work);
        },
      );
    }
    this.#current = undefined;
    this.work();
  }

  readonly #heard = new Map<number, (version: number | undefined, shares: readonly Shares[]) => void>();

  #issue(
    range: KeyRange,
    asked: (
      keys: RangeSet,
    ) =>
      | Omit<Extract<Asked, { kind: "pull" }>, "timestamp" | "oldest">
      | Omit<Extract<Asked, { kind: "push" }>, "timestamp" | "oldest">,
    heard: (version: number | undefined, shares: readonly Shares[]) => void,
    finished: () => void,
  ): void {
    const timestamp = this.#requests.next;
    this.#what.set(timestamp, { range, asked, finished });
    this.#heard.set(timestamp, heard);
    const servers = piecesOf(this.#view!.map, range).map(({ server }) => server);
    this.#drive({ kind: "issue", servers, after: [], nowMs: 0 });
  }

  #drive(input: RequestsInput): void {
    for (const output of this.#requests.handle(input)) {
      const what = this.#what.get(output.timestamp)!;
      if (output.kind === "finished") {
        this.#what.delete(output.timestamp);
        what.finished();
        continue;
      }
      const { number, map } = this.#view!;
      const { timestamp, oldest, server } = output;
      const { keys } = piecesOf(map, what.range).find((piece) => piece.server === server)!;
      const asked = { ...what.asked(keys), timestamp, oldest } as Asked;
      const to = this.#world.servers[server]!;
      const answer = (version: number | undefined, shares: readonly Shares[]): void =>
        this.#world.carry(to, this, () => {
          if (this.#view!.number !== number || !this.#what.has(timestamp)) return;
          this.#heard.get(timestamp)!(version, shares);
          this.#drive({ kind: "reply", timestamp, server, nowMs: 0 });
        });
      this.#world.carry(this, to, () => to.ofView(number, () => to.ask(asked, answer)));
    }
  }
}
