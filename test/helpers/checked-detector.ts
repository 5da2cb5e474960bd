/** @file D1 to D8 of ring/core/detector.ts after every event, from the inputs and outputs alone. */
import {
  ANSWER_WAIT_MS,
  DetectorMachine,
  HELPERS_MAX,
  OVERSLEPT_MS,
  SEVERED_ROUNDS,
  SUSPICION_MS,
  TICK_INTERVAL_MS,
  type DetectorInit,
  type DetectorInput,
  type DetectorOutput,
  type SuspicionCause,
} from "../../ring/core/detector.ts";

/** Deviations at which a normal tail is 10^-8 (test/unit/ring-detector.test.ts integrates it), rounded down. */
const DEVIATIONS = 5.612;

interface Round {
  readonly ms: number;
  readonly by: readonly number[];
  readonly answers: Map<number, boolean>;
  /** Somebody said so, whatever was said afterwards. */
  wasHeard: boolean;
}

/** What the checker knows of one peer: what went in and came out, and nothing of the machine. */
interface PeerRecord {
  heardMs: number;
  arrivalMs: number | undefined;
  intervalsMs: number[];
  closed: boolean;
  redialMs: number | undefined;
  cause: SuspicionCause | undefined;
  expected: boolean;
  /** Rounds, before the present one and since it was heard here, in which somebody heard it. */
  elsewhere: number;
  round: Round | undefined;
}

/** A machine whose every output is compared with a plain record of its inputs. `expect` itself would take most of the time. */
export class CheckedDetector {
  readonly #machine: DetectorMachine;
  readonly #init: DetectorInit;
  readonly #records: ReadonlyMap<number, PeerRecord>;
  #inputMs: number;
  #tickMs: number;
  #wokeMs = -Infinity;
  #freshMs: number | undefined = -Infinity;

  constructor(init: DetectorInit) {
    this.#machine = new DetectorMachine(init);
    this.#init = init;
    this.#inputMs = this.#tickMs = init.nowMs;
    const fresh = (node: number): PeerRecord => ({
      ...{ heardMs: init.nowMs, arrivalMs: undefined, intervalsMs: [], closed: false, redialMs: undefined },
      ...{ cause: undefined, expected: init.watched.includes(node), elsewhere: 0, round: undefined },
    });
    this.#records = new Map(init.members.filter((node) => node !== init.node).map((node) => [node, fresh(node)]));
  }

  get node(): number {
    return this.#init.node;
  }

  isRedialing(node: number): boolean {
    return this.#records.get(node)!.redialMs !== undefined;
  }

  suspected(): readonly number[] {
    return [...this.#records].filter(([, { cause }]) => cause !== undefined).map(([node]) => node);
  }

  handle(input: DetectorInput): readonly DetectorOutput[] {
    const sleptMs = input.nowMs - this.#inputMs;
    const before = this.#before(input, sleptMs);
    const outputs = this.#machine.handle(input);
    const overslept = outputs.filter(({ kind }) => kind === "overslept").length;
    check(overslept === (sleptMs > OVERSLEPT_MS ? 1 : 0), "a node that overslept says so, once");
    for (const output of outputs) this.#output(output, input, before);
    this.#rounds(outputs, input.nowMs);
    if (input.kind === "heard" && before !== undefined) {
      check(outputs.some(({ kind }) => kind === "trust") === (before.cause !== undefined), "D6 heard is trusted");
      check(this.#records.get(input.node)!.cause === undefined, "D6 heard is not suspected");
    }
    if (input.kind === "tick") this.#tickMs = input.nowMs;
    return outputs;
  }

  /** Books the input; returns the peer's record as it was before it. */
  #before(input: DetectorInput, sleptMs: number): PeerRecord | undefined {
    this.#inputMs = input.nowMs;
    if (sleptMs > OVERSLEPT_MS) {
      [this.#wokeMs, this.#freshMs] = [input.nowMs, undefined];
      for (const record of this.#records.values()) record.arrivalMs = undefined;
    }
    const record = input.kind === "tick" ? undefined : this.#records.get(input.node);
    if (record === undefined) return undefined;
    const before = { ...record };
    const isOwnProbe = input.kind === "probed" && input.by === this.#init.node;
    if (input.kind === "heard" || (isOwnProbe && input.alive)) {
      this.#freshMs ??= input.nowMs;
      record.heardMs = input.nowMs;
      [record.elsewhere, record.round] = [0, undefined];
      record.expected = this.#init.watched.includes((input as { node: number }).node);
    }
    if (input.kind === "heard") {
      if (record.arrivalMs !== undefined) record.intervalsMs.push(Math.min(5_000, input.nowMs - record.arrivalMs));
      record.arrivalMs = input.nowMs;
      record.intervalsMs = record.intervalsMs.slice(-100);
    }
    if (input.kind === "closed") record.closed = true;
    if (input.kind === "redialed") record.redialMs = undefined;
    if (input.kind === "accused" || (input.kind === "redialed" && input.outcome === "silent")) record.expected = true;
    if (input.kind === "probed" && record.round?.by.includes(input.by)) {
      record.round.answers.set(input.by, input.alive);
      record.round.wasHeard ||= input.alive;
    }
    return before;
  }

  #output(output: DetectorOutput, input: DetectorInput, before: PeerRecord | undefined): void {
    if (output.kind === "overslept") return;
    const node = output.kind === "probe" ? output.target : output.node;
    const record = this.#records.get(node);
    if (record === undefined) throw new Error("D1 only other members");
    if (output.kind === "redial") {
      check(record.redialMs === undefined, "D7 one redial");
      check(record.closed, "a redial follows a closed stream");
      record.redialMs = input.nowMs;
    } else if (output.kind === "trust") {
      check(record.cause !== undefined, "D1 trust follows suspicion");
      record.cause = undefined;
    } else if (output.kind === "suspect") {
      check(record.cause !== output.cause && record.cause !== "closed", "D1 suspected once");
      check(output.lastHeardMs === record.heardMs, "the last sign of life");
      if (output.cause === "silent") this.#silent(record, input);
      else if (output.cause === "severed") this.#severed(record, node, input);
      else {
        check(input.kind === "redialed" && input.outcome === "refused" && input.node === node, "D2 refused");
        check(record.closed && before!.redialMs! >= this.#wokeMs, "D2 a redial since it woke");
      }
      record.cause = output.cause;
    }
  }

  #severed(record: PeerRecord, node: number, input: DetectorInput): void {
    this.#silence(record, input);
    check(this.#init.watched.includes(node), "D8 its heartbeats are due here");
    check(
      record.elsewhere + (record.round?.wasHeard === true ? 1 : 0) >= SEVERED_ROUNDS,
      "D8 others heard it, again and again",
    );
  }

  #silent(record: PeerRecord, input: DetectorInput): void {
    const { gapMs, limitMs } = this.#silence(record, input);
    const said = [...(record.round?.answers.values() ?? [])];
    const dead = said.filter((alive) => !alive).length;
    const others = [...this.#records.values()].filter((other) => other !== record);
    const isAlone = said.length === 0 || others.every(({ cause }) => cause !== undefined);
    check(2 * dead > said.length || (isAlone && gapMs > 2 * limitMs), "D3 the majority");
  }

  #silence(record: PeerRecord, { kind, nowMs }: DetectorInput): { readonly gapMs: number; readonly limitMs: number } {
    check(kind === "tick" || kind === "probed", "D5 nothing else shows silence");
    check(record.expected, "D5 nothing was expected of it");
    check(this.#freshMs !== undefined && nowMs - this.#freshMs >= SUSPICION_MS, "D4 it overslept");
    const gapMs = nowMs - Math.max(record.heardMs, this.#wokeMs);
    const lagMs = Math.max(0, nowMs - this.#tickMs - TICK_INTERVAL_MS);
    const limitMs = Math.max(SUSPICION_MS, phiLimit(record.intervalsMs)) + lagMs;
    check(gapMs > limitMs, "D3 the gap");
    return { gapMs, limitMs };
  }

  #rounds(outputs: readonly DetectorOutput[], nowMs: number): void {
    const probes = outputs.filter((output) => output.kind === "probe");
    for (const target of new Set(probes.map((probe) => probe.target))) {
      const by = probes.filter((probe) => probe.target === target).map((probe) => probe.by);
      if (by[0] === this.#init.node) continue;
      const record = this.#records.get(target)!;
      check(by.length <= HELPERS_MAX && !by.includes(target) && !by.includes(this.#init.node), "D7 the asked");
      check(record.round === undefined || nowMs - record.round.ms > ANSWER_WAIT_MS, "D7 one round");
      if (record.round?.wasHeard === true) record.elsewhere += 1;
      record.round = { ms: nowMs, by, answers: new Map(), wasHeard: false };
    }
  }
}

function check(condition: boolean, rule: string): asserts condition {
  if (!condition) throw new Error(rule);
}

function phiLimit(intervalsMs: readonly number[]): number {
  if (intervalsMs.length < 2) return 0;
  const mean = intervalsMs.reduce((sum, value) => sum + value, 0) / intervalsMs.length;
  const variance = intervalsMs.reduce((sum, value) => sum + (value - mean) ** 2, 0) / intervalsMs.length;
  return mean + DEVIATIONS * Math.max(20, Math.sqrt(variance));
}
