/** @file What a node says of a view that is over: nothing. Its segments would be taken for those of the next one. */
import { afterAll, expect, test } from "vitest";
import type { ControlMessage } from "../../ring/runtime/control-messages.ts";
import { Conversation } from "../../ring/runtime/conversation.ts";
import { History } from "../../ring/runtime/history.ts";
import type { AnnouncementBody } from "../../ring/runtime/messages.ts";
import type { Recovery } from "../../ring/runtime/recovery.ts";
import { Tally } from "../../ring/runtime/tally.ts";
import { Recorder } from "../../src/metrics/recorder.ts";
import { jobOf, Scratch, tinySettings } from "../helpers/memory-ring.ts";
import { madeCandidate, madeView } from "../helpers/view-explorer-views.ts";

const scratch = new Scratch();
afterAll(() => scratch.remove());

test("what was saved in a view that is over is told to nobody", () => {
  const told: ControlMessage[] = [];
  const recovery = { send: (message: ControlMessage) => told.push(message) } as unknown as Recovery;
  const settings = tinySettings({ nodes: 3 });
  const folder = scratch.folder();
  const recorder = new Recorder({ folder, batch: 12, earlier: [], startedMs: 0 });
  const [before, after] = [madeView(3), madeView(3, { view: 2 })];
  const conversation = new Conversation(
    {
      ...{ job: jobOf(settings), self: madeCandidate(0), engine: "wasm:1", folder, recorder, lateness: null },
      ...{ history: new History({ recorder, state: undefined, told: () => {} }), tally: new Tally(settings) },
      present: () => ({ node: 0, session: undefined, recovery }),
      ...{ stop: () => {}, onNotDurable: () => {} },
    },
    before,
  );
  const body: AnnouncementBody = { kind: "notSaved", step: 5, layers: [0, 1], reason: "full" };
  conversation.announce(body, before);
  conversation.viewed(after);
  // A save that was under way ends when the next view has begun.
  conversation.announce({ ...body, step: 6 }, before);
  conversation.announce({ ...body, step: 7 }, after);
  expect(told).toMatchObject([
    { view: 1, body: { step: 5 } },
    { view: 2, body: { step: 7 } },
  ]);
  conversation.end({ completedSteps: 0, summary: null });
});
