/** @file A client's requests: what waits for what, what is sent again, when a request is finished. */
import { describe, expect, test } from "vitest";
import { Requests, type RequestsInput } from "../../baseline-ps/core/requests.ts";

const RESEND_MS = 100;

/** Plays inputs, and files what went out. */
function played(inputs: readonly RequestsInput[]): readonly string[] {
  const requests = new Requests({ resendMs: RESEND_MS, openMax: 16 });
  return inputs.flatMap((input) =>
    requests
      .handle(input)
      .map((output) =>
        output.kind === "send" ? `send ${output.timestamp} to ${output.server}` : `finished ${output.timestamp}`,
      ),
  );
}

const issue = (servers: readonly number[], after: readonly number[] = [], nowMs = 0): RequestsInput => ({
  ...{ kind: "issue", servers, after, nowMs },
});
const reply = (timestamp: number, server = 0, nowMs = 0): RequestsInput => ({
  kind: "reply",
  timestamp,
  server,
  nowMs,
});

describe("execute-after-finished", () => {
  test("iteration 12 waits for 11, and 11 does not wait for 10", () => {
    // Timestamps 0, 1, 2 stand for the pushes and pulls of iterations 10, 11, 12 (Li 2014, figure 6).
    const history = played([issue([0]), issue([0]), issue([0], [1]), reply(1), reply(0), reply(2)]);
    expect(history).toEqual(["send 0 to 0", "send 1 to 0", "finished 1", "send 2 to 0", "finished 0", "finished 2"]);
  });

  test("what is finished already is not waited for", () => {
    expect(played([issue([0]), reply(0), issue([0], [0])])).toEqual(["send 0 to 0", "finished 0", "send 1 to 0"]);
  });

  test("a request waits for all of several, and for all of their servers", () => {
    const history = played([issue([0, 1]), issue([1]), issue([0], [0, 1]), reply(0, 0), reply(1, 1), reply(0, 1)]);
    expect(history.indexOf("send 2 to 0")).toBe(history.indexOf("finished 0") + 1);
  });

  test("a request that waits for a later one is the caller's error", () => {
    expect(() => played([issue([0], [0])])).toThrow("a request waits for earlier ones");
  });
});

describe("what is not answered", () => {
  test("is sent again to those that have not, and no request before the oldest open one is", () => {
    const requests = new Requests({ resendMs: RESEND_MS, openMax: 16 });
    for (const input of [issue([0, 1]), issue([0]), reply(1), reply(0, 1)]) requests.handle(input);
    expect(requests.oldest).toBe(0);
    expect(requests.handle({ kind: "tick", nowMs: RESEND_MS - 1 })).toEqual([]);
    expect(requests.handle({ kind: "tick", nowMs: RESEND_MS })).toEqual([
      { kind: "send", timestamp: 0, server: 0, oldest: 0 },
    ]);
    requests.handle(reply(0, 0));
    expect(requests.oldest).toBe(2);
    expect(requests.isFinished(0)).toBe(true);
    expect(requests.isFinished(2)).toBe(false);
  });

  test("answers that come twice, late or from elsewhere change nothing", () => {
    expect(played([issue([0, 1]), reply(0, 0), reply(0, 0), reply(0, 7), reply(9)])).toEqual([
      "send 0 to 0",
      "send 0 to 1",
    ]);
  });

  test("is bounded", () => {
    expect(() => played(Array.from({ length: 17 }, () => issue([0])))).toThrow("at most 16 requests are open");
  });
});
