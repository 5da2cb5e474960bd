/**
 * @file A neighbour that lies about layers that are to move: a token that is not due, a layer that no plan moves, parts at another
 * offset, of another size, from the wrong side. The link ends with a reason, and nothing is overwritten.
 */
import { describe, expect, test } from "vitest";
import type { Link } from "../../src/net/link.ts";
import { DataType, FrameKind } from "../../src/wire/header.ts";
import { Duel, expectRefusal, floats, measure, send, tell, WIDTHS } from "../helpers/duel.ts";

const LAYERS = 4;
/** Parameters and Adam's two states. */
const COPIES = 3;

const floatCountOf = (layer: number): number => COPIES * (WIDTHS[layer]! + 1) * (WIDTHS[layer + 1] ?? 0);

/** The whole of `layer` on its way, before the first step. */
function part(layer: number) {
  const floatCount = floatCountOf(layer);
  const shape: readonly number[] = [floatCount];
  const fields = { kind: FrameKind.parameters, dtype: DataType.float32, shape, microBatch: layer, value: 0 };
  return [fields, floats(floatCount)] as const;
}

/** A real last node, and a first node that says it is ten times as slow: its upper layers are to move to the real one. */
class Moving implements AsyncDisposable {
  readonly duel: Duel;
  readonly forward: Link;
  readonly backward: Link;
  /** The first layer that the real node holds. */
  readonly end: number;

  private constructor(duel: Duel, forward: Link, backward: Link) {
    this.duel = duel;
    this.forward = forward;
    this.backward = backward;
    this.end = duel.cut[0]![1];
  }

  static async form(): Promise<Moving> {
    const duel = await Duel.form(1, { pace: "1000GFLOP/s" });
    const { forward, backward } = await duel.openAll();
    const moving = new Moving(duel, forward, backward);
    // Its word of its places says that the real node's edges are open too.
    await duel.listener.first(FrameKind.control);
    tell(forward, { balance: { kind: "collect", view: 0, plan: 0, measurements: [moving.#own] } });
    await duel.listener.first(FrameKind.token);
    return moving;
  }

  get #own() {
    return this.#measure(0, 0, this.end, 1_000_000);
  }

  #measure(node: number, start: number, end: number, us: number) {
    const layers = Array.from({ length: end - start }, (_, offset) => [start + offset, us] as const);
    return measure(node, layers);
  }

  /** Lap two, as all nodes' measurements would be but for `changes`. */
  decide(changes: Readonly<Record<string, unknown>> = {}): void {
    const measurements = [this.#own, this.#measure(1, this.end, LAYERS, 100_000)];
    tell(this.forward, { balance: { kind: "decide", view: 0, plan: 0, step: 0, measurements, ...changes } });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.duel[Symbol.asyncDispose]();
  }
}

test("what the plan says is taken: the node tells its places under the new cut", async () => {
  await using moving = await Moving.form();
  const { duel, forward, end } = moving;
  const opened = duel.listener.word((word) => word["opensPlan"] === 1);
  moving.decide();
  for (let layer = 1; layer < end; layer += 1) send(forward, ...part(layer));
  expect(await opened).toMatchObject({ say: "credits", lap: 0, opensPlan: 1 });
});

describe("a token is refused", () => {
  test.each([
    ["of another view", { view: 1 }, "decide token of plan 1/0: this ring is at view 0"],
    ["of another plan", { plan: 1 }, "decide token of plan 0/1: the newest plan is 0"],
    ["of lap one again", { kind: "collect", step: undefined }, "this node is collecting"],
    ["without everybody's measurement", { measurements: [] }, "measurements of 2 nodes are due"],
    ["with a measurement that is no number", { measurements: [measure(0, [[0, 0.5]])] }, "a message is malformed"],
    ["with a negative step", { step: -1 }, "a message is malformed"],
  ])("%s", async (_, changes, reason) => {
    await using moving = await Moving.form();
    moving.decide(changes);
    await expectRefusal(moving.duel, moving.forward, reason);
  });
});

describe("a layer is refused", () => {
  test("that no plan moves", async () => {
    await using moving = await Moving.form();
    send(moving.forward, ...part(moving.end - 1));
    await expectRefusal(moving.duel, moving.forward, "a layer from the predecessor that no plan moves");
  });

  test.each([
    ["at another offset", { value: 4 }, "bytes at 4, not"],
    ["at no offset", { value: Number.NaN }, "bytes at NaN, not"],
    ["of another step", { step: 1 }, "a part of"],
    ["that stays where it is", { microBatch: 0 }, "layer 0 from the predecessor: it is not awaited"],
    ["that the node has", { microBatch: 3 }, "layer 3 from the predecessor: it is not awaited"],
    ["that the model has not", { microBatch: 99 }, "layer 99 from the predecessor: it is not awaited"],
  ])("%s", async (_, changes, reason) => {
    await using moving = await Moving.form();
    moving.decide();
    const [fields, bytes] = part(moving.end - 1);
    send(moving.forward, { ...fields, ...changes }, bytes);
    await expectRefusal(moving.duel, moving.forward, reason);
  });

  test.each([
    ["one float short", -1],
    ["one float long", 1],
  ])("that is %s", async (_, change) => {
    await using moving = await Moving.form();
    moving.decide();
    const [fields] = part(moving.end - 1);
    const floatCount = floatCountOf(moving.end - 1);
    send(moving.forward, { ...fields, shape: [floatCount + change] }, floats(floatCount + change));
    const sizes = `a part of ${4 * (floatCount + change)} bytes at 0, not ${4 * floatCount} at 0`;
    await expectRefusal(moving.duel, moving.forward, sizes);
  });

  test("of no bytes, which no memory would hold", async () => {
    await using moving = await Moving.form();
    moving.decide();
    send(moving.forward, { kind: FrameKind.parameters, microBatch: moving.end - 1, value: 0 });
    await expectRefusal(moving.duel, moving.forward, "a part of 0 bytes at 0, not");
  });

  test("from the wrong side", async () => {
    await using moving = await Moving.form();
    const { duel, backward, end } = moving;
    // The node has heard of the plan when it passes the token on.
    const passed = duel.listener.nextToken();
    moving.decide();
    await passed;
    send(backward, ...part(end - 1));
    await expectRefusal(duel, backward, `layer ${end - 1} from the successor: it is not awaited`);
  });
});
