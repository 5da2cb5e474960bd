/**
 * @file A neighbour that breaks the protocol on the edges of a real node: the link ends with a reason, the run with an operating
 * error, and the process lives.
 */
import { crc32 } from "node:zlib";
import { describe, expect, test } from "vitest";
import { DATA_PROTOCOL } from "../../ring/runtime/edges.ts";
import { Link } from "../../src/net/link.ts";
import { NetworkError, NodeLostError } from "../../src/types/errors.ts";
import type { Frame } from "../../src/wire/decoder.ts";
import { encodeFrame } from "../../src/wire/encode.ts";
import { DataType, FrameKind, frameFields, type FrameFields } from "../../src/wire/header.ts";
import {
  Duel,
  expectRefusal,
  floats,
  JOB,
  JOB_TEXT,
  Listener,
  measure,
  places,
  say,
  send,
  tell,
} from "../helpers/duel.ts";
import { formRing, Scratch, soon, tinySettings } from "../helpers/memory-ring.ts";

/** What the last stage owes the first: shaped like what came. */
const gradientLike = (frame: Frame) => ({
  kind: FrameKind.gradient,
  dtype: DataType.float32,
  shape: frame.header.shape,
});

describe("an edge's hello is refused", () => {
  test.each([
    [{ view: 9 }, "view 9 is not this ring's: it is at view 0"],
    [{ job: "beef" }, "job beef is not this ring's job 00c0ffee00c0ffee"],
    [{ direction: "sideways" }, "a message is malformed: direction"],
    [{ kind: "join" }, "a message is malformed: kind"],
    [{ extra: 1 }, "a message is malformed"],
  ])("for %j, and the neighbour is served afterwards", async (changes, reason) => {
    await using duel = await Duel.form(0);
    await expect(duel.open("forward", changes)).rejects.toThrow(reason);
    const opened = await duel.openAll();
    await duel.listener.first(FrameKind.activation);
    await expect(duel.open("forward")).rejects.toThrow("the forward edge is already open");
    for (const link of Object.values(opened)) link.abort("the test is over");
  });

  test("for a stranger", async () => {
    const settled = tinySettings({ steps: 1 });
    const { rings, network, close } = await formRing(settled);
    const stranger = network.join("stranger");
    const scratch = new Scratch();
    const folder = scratch.folder();
    const runs = rings.map((ring) => ring.train(folder));
    const stream = await stranger.dial(rings[0]!.view.members[0]!.addresses, DATA_PROTOCOL);
    const hello = { kind: "edge", job: JOB_TEXT, view: 0, direction: "forward" };
    await expect(soon(Link.open(stream, hello, new Listener()), "an edge")).rejects.toThrow(
      "peer stranger is not the neighbour node-1",
    );
    const [outcome] = await soon(Promise.all(runs), "training");
    expect(outcome!.completedSteps).toBe(1);
    await Promise.all([close(), stranger.close()]);
    scratch.remove();
  });
});

describe("the first stage refuses of the last", () => {
  test.each<[string, (frame: Frame) => [Partial<FrameFields> & Pick<FrameFields, "kind">, Uint8Array?], string]>([
    ["another shape", (frame) => [{ ...gradientLike(frame), shape: [3, 2] }, floats(6)], "has type 1 and shape [3, 2]"],
    ["no payload", () => [{ kind: FrameKind.gradient }], "has type 0 and shape []"],
    [
      "integers",
      (frame) => [{ ...gradientLike(frame), dtype: DataType.int32 }, floats(frame.payload.byteLength / 4)],
      "has type 2",
    ],
    [
      "out of order",
      (frame) => [{ ...gradientLike(frame), microBatch: 1 }, floats(frame.payload.byteLength / 4)],
      "gradient 0/1 of lap 0 is out of order",
    ],
    ["of another job", (frame) => [{ ...gradientLike(frame), job: 1n }, frame.payload], "a frame of job 1, view 0"],
    [
      "of another view",
      (frame) => [{ ...gradientLike(frame), view: 7 }, frame.payload],
      `view 7: this ring is job ${JOB}`,
    ],
    [
      "more credits than it has places",
      (frame) => [{ ...gradientLike(frame), credits: 9 }, floats(frame.payload.byteLength / 4)],
      "more credits than places",
    ],
    [
      "labels",
      () => [{ kind: FrameKind.labels, dtype: DataType.int32, shape: [12] }, floats(12)],
      "labels of step 0 are out of order",
    ],
    ["a replica", () => [{ kind: FrameKind.replica }, floats(1)], "kind 23 does not come from a successor"],
    ["a replica without content", () => [{ kind: FrameKind.replica }], "kind 23 does not come from a successor"],
    ["a word that is no JSON", () => [{ kind: FrameKind.control }, Buffer.from("{")], "a message is not JSON"],
    ["an empty word", () => [{ kind: FrameKind.control }], "a message is not JSON"],
    [
      "an unknown word",
      () => [{ kind: FrameKind.control }, Buffer.from('{"say":"jump"}')],
      "a message is malformed: say",
    ],
    [
      "a word from the wrong side",
      () => [{ kind: FrameKind.control }, Buffer.from('{"say":"end","lastStep":3}')],
      '"end" does not come from a successor',
    ],
    [
      "an announcement of nothing",
      () => [{ kind: FrameKind.token }, Buffer.from('{"origin":0,"body":{"kind":"none"}}')],
      "a message is malformed",
    ],
    [
      "a gradient of another lap",
      (frame) => [{ ...gradientLike(frame), lap: 1 }, frame.payload],
      "no gradient 0/0 of lap 1 comes here",
    ],
  ])("%s", async (_, frameFor, reason) => {
    await using duel = await Duel.form(0);
    const { backward } = await duel.openAll();
    send(backward, ...frameFor(await duel.listener.first(FrameKind.activation)));
    await expectRefusal(duel, backward, reason);
  });

  test("activations over the closure edge", async () => {
    await using duel = await Duel.form(0);
    const { forward } = await duel.openAll();
    const { header, payload } = await duel.listener.first(FrameKind.activation);
    send(forward, { kind: FrameKind.activation, dtype: DataType.float32, shape: header.shape, microBatch: 1 }, payload);
    await expectRefusal(duel, forward, "no activation 0/1 of lap 0 comes here");
  });

  test.each([
    ["a place that nobody took", { ...places(0), opensPlan: null }, "more credits than places"],
    ["places of a lap that there is not", places(1), "lap 1 sends nothing to a successor"],
    ["a place of evaluation that nobody took", { say: "evaluationCredit", lap: 0 }, "a credit that nobody used"],
    ["a place of evaluation of no lap", { say: "evaluationCredit", lap: 9 }, "a credit that nobody used"],
    ["a negative number of places", { ...places(0), credits: -1 }, "a message is malformed: credits"],
    ["places of a plan that is no number", { ...places(0), opensPlan: "0" }, "a message is malformed: opensPlan"],
  ])("%s", async (_, word, reason) => {
    await using duel = await Duel.form(0);
    const { backward } = await duel.openAll();
    await duel.listener.first(FrameKind.activation);
    say(backward, word);
    await expectRefusal(duel, backward, reason);
  });

  test("a free place before it was told how many there are", async () => {
    await using duel = await Duel.form(0);
    const [backward] = await Promise.all([duel.open("backward"), duel.open("forward")]);
    say(backward, { ...places(0), opensPlan: null });
    await expectRefusal(duel, backward, "credits before any place was told of");
  });

  test("a token of the balance that it never started, or that comes against the ring's direction", async () => {
    for (const [direction, reason] of [
      ["forward", "collect token of plan 0/0: this node is idle"],
      ["backward", "a token of the balance does not come from a successor"],
    ] as const) {
      await using duel = await Duel.form(0);
      const { [direction]: link } = await duel.openAll();
      await duel.listener.first(FrameKind.activation);
      tell(link, { balance: { kind: "collect", view: 0, plan: 0, measurements: [measure(0, []), measure(1, [])] } });
      await expectRefusal(duel, link, reason);
    }
  });
});

describe("the last stage refuses of the first", () => {
  const activation = { kind: FrameKind.activation, dtype: DataType.float32 } as const;

  test("activations without credit: more than it has places", async () => {
    await using duel = await Duel.form(1);
    const { forward } = await duel.openAll();
    const { width } = duel;
    // Without labels no forward runs, so no place becomes free: there are two steps' worth.
    for (let sequence = 0; sequence < 9; sequence += 1) {
      const [step, microBatch] = [Math.floor(sequence / 4), sequence % 4];
      send(forward, { ...activation, shape: [3, width], step, microBatch }, floats(3 * width));
    }
    await expectRefusal(duel, forward, "activation 2/0 of lap 0 comes without credit");
  });

  test.each([
    [1, 1],
    [2, 2],
    [2, 65_535],
  ])("an activation of a foreign lap: where there are %i, lap %i", async (laps, lap) => {
    await using duel = await Duel.form(1, { laps });
    const { forward } = await duel.openAll();
    const { width } = duel;
    send(forward, { ...activation, shape: [3, width], lap }, floats(3 * width));
    await expectRefusal(duel, forward, `no activation 0/0 of lap ${lap} comes here`);
  });

  test("an activation of the next lap before its turn", async () => {
    await using duel = await Duel.form(1, { laps: 2 });
    const { forward } = await duel.openAll();
    send(forward, { ...activation, shape: [3, 7], lap: 1, microBatch: 1 }, floats(21));
    await expectRefusal(duel, forward, "activation 0/1 of lap 1 is out of order");
  });

  test("places of a lap where the model ends", async () => {
    for (const laps of [1, 2]) {
      await using duel = await Duel.form(1, { laps });
      const { backward } = await duel.openAll();
      say(backward, places(laps - 1));
      await expectRefusal(duel, backward, `lap ${laps - 1} sends nothing to a successor`);
    }
  });

  test.each(["credits", "stop", "evaluationCredit"])("the word %s from its predecessor", async (word) => {
    await using duel = await Duel.form(1);
    const { forward } = await duel.openAll();
    say(forward, { ...(word === "credits" ? places(0) : word === "stop" ? {} : { lap: 0 }), say: word });
    await expectRefusal(duel, forward, `"${word}" does not come from a predecessor`);
  });

  test("an activation without payload, which no memory would hold", async () => {
    await using duel = await Duel.form(1);
    const { forward } = await duel.openAll();
    send(forward, { kind: FrameKind.activation });
    await expectRefusal(duel, forward, "has type 0 and shape []");
  });

  test("labels of a step that is not due", async () => {
    await using duel = await Duel.form(1);
    const { backward } = await duel.openAll();
    send(backward, { kind: FrameKind.labels, dtype: DataType.int32, shape: [12], step: 1 }, floats(12));
    await expectRefusal(duel, backward, "labels of step 1 are out of order");
  });
});

describe("bytes that are no frames end the link", () => {
  /** Writes to an edge below the link, behind a valid hello. */
  async function write(bytesFor: () => Uint8Array): Promise<unknown> {
    await using duel = await Duel.form(0);
    const opened = duel.open("backward");
    const stream = await duel.dial();
    const hello = Buffer.from(JSON.stringify({ kind: "edge", job: JOB_TEXT, view: 0, direction: "forward" }));
    const fields = frameFields({ kind: FrameKind.hello, value: 1 << 20 });
    for (const part of encodeFrame(fields, { sequence: 0, grantedBytes: 0 }, hello)) stream.write(part, "given");
    say(await opened, places(0));
    await duel.listener.first(FrameKind.activation);
    stream.write(bytesFor(), "given");
    return await duel.ended;
  }

  const token = (): [Uint8Array, Uint8Array] =>
    encodeFrame(frameFields({ kind: FrameKind.token, job: JOB }), { sequence: 1, grantedBytes: 0 }, Buffer.from("{}"));
  const join = ([header, payload]: [Uint8Array, Uint8Array]): Uint8Array => Buffer.concat([header, payload]);
  /** Rewrites a field and repairs the header's checksum. */
  const forge = (offset: number, value: number): Uint8Array => {
    const bytes = Buffer.from(join(token()));
    bytes.writeUInt32LE(value, offset);
    bytes.writeUInt32LE(crc32(bytes.subarray(0, 76)), 76);
    return bytes;
  };

  test.each<[string, () => Uint8Array, string]>([
    ["noise", () => Buffer.alloc(200, 0xa5), "it does not begin with the magic number"],
    ["a payload above the limit of its kind", () => forge(68, 0xffff_fff0), "4294967280 bytes of payload"],
    ["a frame of an unknown kind", () => Buffer.from(forge(4, 0x0000_6301)), "kind 99 is unknown"],
    ["a frame that was left out", () => forge(52, 5), "frame 5 came where frame 1 was due"],
    [
      "a damaged payload",
      () => {
        const bytes = join(token());
        bytes[81]! ^= 1;
        return bytes;
      },
      "the payload's checksum is wrong",
    ],
    [
      "a damaged header",
      () => {
        const bytes = join(token());
        bytes[20]! ^= 1;
        return bytes;
      },
      "the header's checksum is wrong",
    ],
    ["a grant for bytes that were never sent", () => forge(64, 1), "1 bytes were granted and 0 are outstanding"],
  ])("%s", async (_, bytesFor, reason) => {
    const error = await write(bytesFor);
    expect(error).toBeInstanceOf(NetworkError);
    expect((error as Error).message).toContain(reason);
  });
});

test("a neighbour that is gone without a GOODBYE is lost, not done", async () => {
  await using duel = await Duel.form(0);
  const { backward } = await duel.openAll();
  await duel.listener.first(FrameKind.activation);
  await duel.vanish();
  expect(await soon(backward.ended, "the end of the link")).toEqual({ kind: "lost" });
  const error = await duel.ended;
  expect(error).toBeInstanceOf(NodeLostError);
  expect((error as Error).message).toBe("node 1 (node-1) is gone at step 0, and its segment with it");
});
