/** @file Parameters that may lag: a share goes on with what is there, waits for what is too old, and sees one state of each layer from its begin to its end. */
import { describe, expect, test } from "vitest";
import { LaggingParameters } from "../../baseline-ps/runtime/lagging-parameters.ts";

const shared = (length: number): Float32Array<SharedArrayBuffer> => new Float32Array(new SharedArrayBuffer(4 * length));

/** Servers whose answers come when the test says so. Each key's value is the version. */
class Answers {
  readonly places = [shared(2), shared(3)];
  readonly pulls: {
    readonly into: Float32Array;
    readonly leastVersion: number;
    readonly done: (version: number) => void;
  }[] = [];
  readonly #waits: Promise<number>[] = [];
  readonly parameters = new LaggingParameters({
    keys: [
      { start: 0, end: 2 },
      { start: 2, end: 5 },
    ],
    compute: { parameters: (layer) => this.places[layer]! },
    client: {
      pull: (_, into, { leastVersion }) => {
        const { promise, resolve } = Promise.withResolvers<number>();
        this.pulls.push({ into, leastVersion, done: resolve });
        return this.#waits.push(promise) - 1;
      },
      wait: (timestamp) => this.#waits[timestamp]!,
      abandon: () => {},
    },
  });

  /** The oldest pull that is not answered. */
  async answer(version: number): Promise<void> {
    const { into, done } = this.pulls.shift()!;
    into.fill(version);
    done(version);
    await Promise.resolve();
    await Promise.resolve();
  }

  get values(): readonly number[] {
    return this.places.map((place) => place[0]!);
  }
}

async function first(answers: Answers): Promise<void> {
  answers.parameters.begin(0);
  await answers.parameters.ahead();
  await answers.answer(3);
  await answers.answer(4);
  for (const layer of [0, 1]) await answers.parameters.arrived(layer);
}

describe("parameters that may lag", () => {
  test("the first share waits for every layer, and tells the least version", async () => {
    const answers = new Answers();
    answers.parameters.begin(0);
    let isThere = false;
    const arrived = answers.parameters.arrived(1).then(() => (isThere = true));
    await Promise.resolve();
    expect(isThere).toBe(false);
    expect(answers.pulls).toHaveLength(1);
    await answers.answer(2);
    await arrived;
    expect(answers.places[1]).toEqual(new Float32Array([2, 2, 2]));
    expect(answers.parameters.version).toBe(2);
  });

  test("a share goes on with what is there, and what comes meanwhile stays out of its sight", async () => {
    const answers = new Answers();
    await first(answers);
    const { parameters } = answers;
    expect(parameters.version).toBe(3);
    for (const layer of [1, 0]) {
      parameters.drop(layer);
      parameters.want(layer, 2);
    }
    parameters.begin(3);
    await parameters.ahead();
    expect(answers.pulls.map(({ leastVersion }) => leastVersion)).toEqual([2, 2]);
    for (const layer of [0, 1]) await parameters.arrived(layer);
    await answers.answer(5);
    await answers.answer(5);
    await parameters.arrived(1);
    expect(answers.values).toEqual([3, 4]);
    expect(parameters.version).toBe(3);
    // Between two shares it comes into its place, and newer ones are asked for.
    parameters.drop(1);
    expect(answers.values).toEqual([3, 5]);
    parameters.want(1, 4);
    expect(answers.pulls.map(({ leastVersion }) => leastVersion)).toEqual([4]);
  });

  test("what lags too far is waited for, also where what comes first is too old", async () => {
    const answers = new Answers();
    await first(answers);
    const { parameters } = answers;
    for (const layer of [0, 1]) {
      parameters.drop(layer);
      parameters.want(layer, 1);
    }
    parameters.begin(4);
    await parameters.arrived(1);
    const waiting = parameters.arrived(0);
    await answers.answer(3);
    expect(answers.pulls.map(({ leastVersion }) => leastVersion)).toEqual([1, 4]);
    await answers.answer(4);
    await answers.answer(6);
    await waiting;
    expect(answers.values).toEqual([6, 4]);
    expect(parameters.version).toBe(4);
  });

  test("a server that is gone is told to who waits", async () => {
    const gone = new Error("server 0 is gone");
    const parameters = new LaggingParameters({
      keys: [{ start: 0, end: 1 }],
      compute: { parameters: () => shared(1) },
      client: { pull: () => 0, wait: () => Promise.reject(gone), abandon: () => {} },
    });
    parameters.begin(0);
    await expect(parameters.arrived(0)).rejects.toThrow("server 0 is gone");
  });
});
