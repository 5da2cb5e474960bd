/** @file Byte credits: whatever the order of events, the sender never exceeds the bound, and never waits for ever. */
import fc from "fast-check";
import { expect, test } from "vitest";
import { ReceiveWindow, SendWindow, WINDOW_BYTES_MIN } from "../../src/net/window.ts";
import { ProtocolError } from "../../src/types/errors.ts";

const WINDOW = WINDOW_BYTES_MIN;

test("random sizes and delays: bounded, in step with the receiver, and never stuck", () => {
  fc.assert(
    fc.property(
      fc.array(fc.integer({ min: 80, max: 2 * WINDOW }), { maxLength: 60 }),
      fc.infiniteStream(fc.integer({ min: 0, max: 3 })),
      (sizes, choices) => {
        const [sender, receiver] = [new SendWindow(WINDOW), new ReceiveWindow(WINDOW)];
        const [onTheWay, unprocessed, grants]: [number[], number[], number[]] = [[], [], []];
        const waiting = [...sizes];
        let outstandingBytes = 0;
        let idleTurns = 0;
        while (waiting.length + onTheWay.length + unprocessed.length > 0) {
          const before = waiting.length + onTheWay.length + unprocessed.length * 2 + grants.length;
          const choice = choices.next().value;
          const next = waiting[0];
          if (choice === 0 && next !== undefined && sender.allows(next)) {
            sender.take(next);
            outstandingBytes += next;
            onTheWay.push(next);
            waiting.shift();
            expect(outstandingBytes).toBeLessThanOrEqual(Math.max(WINDOW, WINDOW / 4 + next));
          } else if (choice === 1 && onTheWay.length > 0) {
            const bytes = onTheWay.shift() ?? 0;
            receiver.receive(bytes);
            unprocessed.push(bytes);
          } else if (choice === 2 && unprocessed.length > 0) {
            receiver.process(unprocessed.shift() ?? 0);
            if (receiver.isGrantDue) grants.push(receiver.takeGrant());
          } else if (choice === 3 && grants.length > 0) {
            const bytes = grants.shift() ?? 0;
            sender.grant(bytes);
            outstandingBytes -= bytes;
          }
          const after = waiting.length + onTheWay.length + unprocessed.length * 2 + grants.length;
          idleTurns = before === after ? idleTurns + 1 : 0;
          expect(idleTurns, "stuck").toBeLessThan(1_000);
        }
      },
    ),
  );
});

test("a sender that ignores its window is found, and so is a grant for nothing", () => {
  const receiver = new ReceiveWindow(WINDOW);
  receiver.receive(WINDOW / 2);
  receiver.receive(WINDOW / 2);
  expect(() => receiver.receive(1)).toThrow(ProtocolError);
  const sender = new SendWindow(WINDOW);
  sender.take(10);
  expect(() => sender.grant(11)).toThrow(ProtocolError);
  sender.grant(10);
});

test("a window out of range is refused", () => {
  for (const bytes of [Number.NaN, 0, -1, WINDOW - 1, 2 ** 40, WINDOW + 0.5]) {
    expect(() => new SendWindow(bytes)).toThrow(ProtocolError);
  }
});
