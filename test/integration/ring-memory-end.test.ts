/**
 * @file How rings in one process end where not everybody hears everything: words that got lost are asked for, and who is outside when the run
 * ends is told how. All have the summary, each machine its files, and nobody waits for the dead.
 */
import { afterAll, afterEach, describe, expect, test, vi } from "vitest";
import { Quarantine } from "../../ring/core/quarantine.ts";
import { Control } from "../../ring/runtime/control.ts";
import type { ControlMessage } from "../../ring/runtime/control-messages.ts";
import { bits, runSerial, Scratch, tinySettings } from "../helpers/memory-ring.ts";
import { MortalRing } from "../helpers/mortal-ring.ts";

const scratch = new Scratch();
afterAll(() => scratch.remove());
afterEach(() => void vi.restoreAllMocks());

const LIMIT_MS = 60_000;
const DEEP = { model: "mlp:6-9-5-7-8-6-9-5-4", steps: 100_000 };

async function expectUndisturbed(ring: MortalRing, nodes: number): Promise<void> {
  const outcome = await ring.outcome();
  const settings = tinySettings({ ...DEEP, nodes, steps: outcome.losses.length });
  expect(bits(outcome)).toEqual(bits(await runSerial(settings, scratch.folder())));
}

/** The first words of a kind that are meant for this peer get lost. Returns how many did. */
function lose(to: string, count: number, isMeant: (message: ControlMessage) => boolean): () => number {
  const send = Reflect.get(Control.prototype, "send");
  let lost = 0;
  vi.spyOn(Control.prototype, "send").mockImplementation(function (this: Control, peerId, message) {
    if (peerId === to && lost < count && isMeant(message)) lost += 1;
    else send.call(this, peerId, message);
  });
  return () => lost;
}

/** Whoever comes to the ring stays outside. */
function admitNobody(): void {
  vi.spyOn(Quarantine.prototype, "refusedUntilMs").mockReturnValue(Infinity);
}

describe("a word of the end gets lost", () => {
  test.each([
    ["report", 2],
    ["evaluated", 1],
  ] as const)(
    "%s",
    async (kind, count) => {
      const lost = lose("node-2", count, (message) => message.say === "announce" && message.body.kind === kind);
      await using ring = await MortalRing.form(tinySettings({ ...DEEP, nodes: 4 }));
      await ring.reached(2);
      ring.requestStop();
      await expectUndisturbed(ring, 4);
      expect(lost()).toBe(count);
    },
    LIMIT_MS,
  );

  test(
    "a spare that heard of no report learns from the others that the run ends",
    async () => {
      const lost = lose("node-2", 2, (message) => message.say === "announce" && message.body.kind === "report");
      await using ring = await MortalRing.form(tinySettings({ ...DEEP, model: "mlp:6-9-4" }));
      await ring.reached(2);
      await ring.come(2);
      await ring.until((_, { members }) => members.length === 3, "training with a spare");
      ring.requestStop();
      const { summary, losses } = await ring.outcome();
      expect(summary["perNode"]).toHaveLength(3);
      expect(losses.length).toBeGreaterThan(2);
      expect(lost()).toBe(2);
    },
    LIMIT_MS,
  );
});

test(
  "two members that do not reach each other hear of each other through the rest",
  async () => {
    await using ring = await MortalRing.form(tinySettings({ ...DEEP, nodes: 4 }));
    await ring.reached(4);
    ring.sever(0, 2);
    ring.requestStop();
    await expectUndisturbed(ring, 4);
  },
  LIMIT_MS,
);

describe("a node that is outside when the run ends", () => {
  test(
    "is told how, and has the losses and the summary on its own machine",
    async () => {
      await using ring = await MortalRing.form(tinySettings({ ...DEEP, nodes: 4 }), true);
      await ring.reached(4);
      admitNobody();
      for (const other of [0, 1, 2]) ring.sever(3, other);
      await ring.trainsWith(3);
      for (const other of [0, 1, 2]) ring.mend(3, other);
      await ring.knows(3, ({ members }) => members.length === 3, "the view without node 3");
      ring.requestStop();
      await expectUndisturbed(ring, 3);
    },
    LIMIT_MS,
  );

  test(
    "does not keep the others where it is dead",
    async () => {
      await using ring = await MortalRing.form(tinySettings({ ...DEEP, nodes: 4 }));
      await ring.reached(4);
      ring.kill(3);
      await ring.trainsWith(3);
      ring.requestStop();
      await ring.outcome();
    },
    LIMIT_MS,
  );
});
