/** @file Coming into a ring over real links: who is refused and in which words, who frees a place, whom a member sends on. */
import { afterAll, afterEach, describe, expect, test } from "vitest";
import { joinRing, type RingInit } from "../../ring/index.ts";
import { CONTROL_PROTOCOL } from "../../ring/runtime/control-inbox.ts";
import { syntheticDataSet } from "../../src/data/synthetic.ts";
import { MemoryNetwork } from "../../src/net/memory.ts";
import { Link } from "../../src/net/link.ts";
import type { Transport } from "../../src/net/transport.ts";
import { BUILD } from "../../src/config/fingerprint.ts";
import type { Settings } from "../../src/config/settings.ts";
import { chooseEngines } from "../../src/runtime/engines.ts";
import { encodeFrame } from "../../src/wire/encode.ts";
import { FrameKind, frameFields } from "../../src/wire/header.ts";
import { jobOf, joinerOf, ringInit, Scratch, soon, tinySettings } from "../helpers/memory-ring.ts";

const data = syntheticDataSet({ classes: 4, features: 6, samples: 48, test: 11 }, 5);
const scratch = new Scratch();
afterAll(() => scratch.remove());
const open: Transport[] = [];
afterEach(async () => {
  await Promise.all(open.splice(0).map((transport) => transport.close()));
});

/** A founder that waits for `size` nodes, and what others need to come to it. */
class Founded {
  readonly #network = new MemoryNetwork();
  readonly address: string;
  readonly ring: ReturnType<typeof joinRing>;
  /** Numbers of nodes present, as the founder was told. */
  readonly present: number[] = [];
  readonly #listens = Promise.withResolvers<void>();
  #count = 0;
  #told = Promise.withResolvers<void>();

  /** Resolves when newcomers can be heard. */
  static async start(size: number, changes: Partial<RingInit> = {}, replicas = 0): Promise<Founded> {
    const founded = new Founded(tinySettings({ nodes: size, replicas }), changes);
    await soon(founded.#listens.promise, "the founder's listening");
    return founded;
  }

  private constructor(settings: Settings, changes: Partial<RingInit>) {
    const job = jobOf(settings);
    const founder = this.transport();
    this.address = founder.addresses[0]!;
    const onPresent = (present: number): void => {
      this.present.push(present);
      this.#told.resolve();
      this.#told = Promise.withResolvers();
    };
    const told: Transport = {
      ...{ peerId: founder.peerId, addresses: founder.addresses },
      dial: (...given) => founder.dial(...given),
      handle: async (protocol, handler) => {
        await founder.handle(protocol, handler);
        if (protocol === CONTROL_PROTOCOL) this.#listens.resolve();
      },
      disconnect: (peerId) => founder.disconnect(peerId),
      close: () => founder.close(),
    };
    const role = { kind: "founder", job, data } as const;
    this.ring = scratch.state().then((state) => joinRing(ringInit(told, state, role, { onPresent, ...changes })));
  }

  transport(peerId = `node-${this.#count++}`): Transport {
    const transport = this.#network.join(peerId);
    open.push(transport);
    return transport;
  }

  async join(
    expected: Record<string, string | number | null> = {},
    changes: Partial<RingInit> = {},
    { address = this.address, transport = this.transport() } = {},
  ) {
    return joinRing(ringInit(transport, await scratch.state(), joinerOf(address, expected), changes));
  }

  async until(present: number): Promise<void> {
    while (this.present.at(-1) !== present) await soon(this.#told.promise, `${present} nodes`);
  }
}

const candidate = () => ({
  ...{ peerId: "x", addresses: ["/memory/x/p2p/x"], machine: "here", wish: null },
  ...{ incarnation: "0".repeat(32), boot: 0 },
  engines: chooseEngines("auto").ids,
});
const hello = (changes: Record<string, unknown> = {}) => ({
  ...{ kind: "join", build: BUILD, invite: null, expected: {}, candidate: candidate() },
  ...changes,
});

describe("a newcomer is refused", () => {
  test.each<[string, Record<string, string | number | null>, string]>([
    ["lr", { lr: 0.5 }, "field lr: the job has --lr 0.02, not 0.5"],
    ["microBatches", { seed: 5, microBatches: 2 }, "field microBatches: the job has --micro-batches 4, not 2"],
    ["a setting that there is not", { colour: "red" }, "field colour: the job has --colour undefined, not red"],
  ])("that stated other settings: %s", async (_, expected, reason) => {
    const founded = await Founded.start(2);
    await expect(soon(founded.join(expected), "a refusal")).rejects.toThrow(reason);
    const [first, second] = await soon(Promise.all([founded.ring, founded.join({ lr: 0.02 })]), "the ring");
    expect([first.node, second.node]).toEqual([0, 1]);
    expect(second.view).toEqual(first.view);
    expect(second.job).toEqual(first.job);
  });

  test("without the invite, and taken with it", async () => {
    const founded = await Founded.start(2, { invite: "sesame" });
    for (const invite of [null, "open", ""]) {
      await expect(soon(founded.join({}, { invite }), "a refusal")).rejects.toThrow("needs the invite token");
    }
    await soon(Promise.all([founded.ring, founded.join({}, { invite: "sesame" })]), "the ring");
  });

  test("of another build, or that shares no engine's bits", async () => {
    const founded = await Founded.start(2);
    const say = async (changes: Record<string, unknown>) =>
      Link.open(await founded.transport().dial(founded.address, CONTROL_PROTOCOL), hello(changes), {
        destination: () => new Uint8Array(),
        handle: () => {},
      });
    await expect(soon(say({ build: "ringtmp-9" }), "a refusal")).rejects.toThrow(
      `field build: the ring runs ${BUILD}, not ringtmp-9`,
    );
    await expect(soon(say({ candidate: { ...candidate(), engines: ["wasm:00"] } }), "a refusal")).rejects.toThrow(
      "field engine: the ring has",
    );
    await expect(soon(say({ candidate: { ...candidate(), engines: [] } }), "a refusal")).rejects.toThrow("malformed");
    await expect(soon(say({ extra: true }), "a refusal")).rejects.toThrow("malformed");
    await soon(Promise.all([founded.ring, founded.join()]), "the ring");
  });

  test("when the ring is whole, by the founder and over a member that sends it on", async () => {
    const founded = await Founded.start(2);
    const [, member] = await soon(Promise.all([founded.ring, founded.join()]), "the ring");
    const memberAddress = member.view.members[1]!.addresses[0]!;
    for (const address of [founded.address, memberAddress]) {
      await expect(soon(founded.join({}, {}, { address }), "a refusal")).rejects.toThrow(
        "the ring is whole (2 of 2 nodes), and keeps no replicas",
      );
    }
  });
});

describe("a ring that keeps replicas and is whole", () => {
  test("takes whoever comes, over any member, and tells what is known", async () => {
    const founded = await Founded.start(2, {}, 1);
    const [founder, member] = await soon(Promise.all([founded.ring, founded.join()]), "the ring");
    for (const { addresses } of member.view.members) {
      const late = await soon(founded.join({ lr: 0.02 }, {}, { address: addresses[0]! }), "a late node");
      expect(late.node, "no number before a view has it").toBeLessThan(0);
      expect(late.view).toEqual(founder.view);
      expect(late.job).toEqual(founder.job);
    }
  });

  test("refuses what it would have refused before", async () => {
    const founded = await Founded.start(2, { invite: "sesame" }, 1);
    await soon(Promise.all([founded.ring, founded.join({}, { invite: "sesame" })]), "the ring");
    await expect(soon(founded.join({}, { invite: "open" }), "a refusal")).rejects.toThrow("needs the invite token");
    await expect(soon(founded.join({ lr: 0.5 }, { invite: "sesame" }), "a refusal")).rejects.toThrow("field lr");
  });

  test("refuses an identity that is here already", async () => {
    const founded = await Founded.start(2, {}, 1);
    const transport = founded.transport();
    await soon(Promise.all([founded.ring, founded.join({}, {}, { transport })]), "the ring");
    await transport.close();
    // On a fresh state folder: it counts no more starts than the one that is in the ring.
    const again = founded.join({}, {}, { transport: founded.transport(transport.peerId) });
    await expect(soon(again, "a refusal")).rejects.toThrow("this identity is node 1, which is here");
  });
});

describe("a place", () => {
  test("is free again when who had it leaves before the ring is whole", async () => {
    const founded = await Founded.start(3);
    const leaver = founded.transport();
    const left = founded.join({}, {}, { transport: leaver });
    const failure = expect(left).rejects.toThrow("the founder ended the formation");
    await founded.until(2);
    await leaver.close();
    await soon(failure, "the leaver's error");
    await founded.until(1);
    const second = founded.join();
    await founded.until(2);
    const rings = await soon(Promise.all([founded.ring, second, founded.join()]), "the ring");
    expect(rings[0].view.members.map(({ peerId }) => peerId)).toEqual(["node-0", "node-2", "node-3"]);
  });

  test("is got over a member that has one but does not know the ring yet", async () => {
    const founded = await Founded.start(3);
    const member = founded.transport();
    const joining = founded.join({}, {}, { transport: member });
    await founded.until(2);
    const rings = await soon(
      Promise.all([founded.ring, joining, founded.join({}, {}, { address: member.addresses[0]! })]),
      "the ring",
    );
    expect(rings.map(({ node }) => node)).toEqual([0, 1, 2]);
  });

  test("is not lost to a stranger whose hello is good and whose window is not", async () => {
    const founded = await Founded.start(3);
    const joining = founded.join();
    await founded.until(2);
    const stream = await founded.transport().dial(founded.address, CONTROL_PROTOCOL);
    const fields = frameFields({ kind: FrameKind.hello, value: 1 });
    const link = { sequence: 0, grantedBytes: 0 };
    for (const part of encodeFrame(fields, link, Buffer.from(JSON.stringify(hello())))) stream.write(part, "given");
    const answer = stream.source[Symbol.asyncIterator]();
    for (let part = await answer.next(); part.done !== true;) part = await soon(answer.next(), "the end of the stream");
    const rings = await soon(Promise.all([founded.ring, joining, founded.join()]), "the ring");
    expect(rings[0].view.members.map(({ peerId }) => peerId)).toEqual(["node-0", "node-1", "node-3"]);
  });
});
