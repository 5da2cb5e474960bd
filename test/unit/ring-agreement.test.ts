/** @file One agreement by hand: what waits for the disk, and for its own promise. Every order of events: test/simulation/view-explorer. */
import { expect, test } from "vitest";
import {
  Agreement,
  ballotOf,
  boundValue,
  proposerOf,
  roundOf,
  type AgreementMessage,
} from "../../ring/core/agreement.ts";

type Message = AgreementMessage<string, string>;

const voter = (self: number, vote: ConstructorParameters<typeof Agreement<string, string>>[0]["vote"] = null) =>
  new Agreement<string, string>({ self, voters: [0, 1, 2], peers: [0, 1, 2, 3], vote });
const from = (sender: number, message: Message) =>
  ({ kind: "message", from: sender, message, evidence: "mine" }) as const;
const B = ballotOf(1, 0);

test("ballots name their round and node, and grow", () => {
  expect([roundOf(ballotOf(7, 3)), proposerOf(ballotOf(7, 3))]).toEqual([7, 3]);
  expect(ballotOf(1, 1023)).toBeLessThan(ballotOf(2, 0));
});

test("a promise waits for the disk, once however often it is asked for, and is told to be sealed at once", () => {
  const one = voter(1);
  const prepare = from(0, { kind: "prepare", ballot: B });
  expect(one.handle(prepare).map(({ kind }) => kind)).toEqual(["seal", "persist"]);
  for (let repeat = 0; repeat < 5; repeat += 1) expect(one.handle(prepare)).toEqual([]);
  expect(one.state.pending).toHaveLength(1);
  expect(one.handle({ kind: "persisted", id: 1 })).toEqual([
    { kind: "send", to: 0, message: { kind: "promise", ballot: B, accepted: null, evidence: "mine" } },
  ]);
});

test("who cannot write says nothing", () => {
  const one = voter(1);
  one.handle(from(0, { kind: "prepare", ballot: B }));
  expect(one.handle({ kind: "notPersisted", id: 1 })).toEqual([]);
  expect(one.isSealed).toBe(true);
});

test("a proposer asks nobody else before its own promise is durable", () => {
  const zero = voter(0);
  expect(zero.handle({ kind: "propose" })).toEqual([{ kind: "send", to: 0, message: { kind: "prepare", ballot: B } }]);
  zero.handle(from(0, { kind: "prepare", ballot: B }));
  expect(zero.handle({ kind: "repeat" })).toHaveLength(1);
  zero.handle({ kind: "persisted", id: 1 });
  const own: Message = { kind: "promise", ballot: B, accepted: null, evidence: "mine" };
  expect(zero.handle(from(0, own)).map((output) => output.kind === "send" && output.to)).toEqual([1, 2, 3]);
});

test("answers of who does not vote are no majority", () => {
  const zero = voter(0);
  zero.handle({ kind: "propose" });
  for (const node of [0, 3]) zero.handle(from(node, { kind: "promise", ballot: B, accepted: null, evidence: "x" }));
  expect(zero.hasQuorum).toBe(false);
  zero.handle(from(1, { kind: "promise", ballot: B, accepted: { ballot: 7, value: "bound" }, evidence: "x" }));
  expect(zero.hasQuorum).toBe(true);
  const outputs = zero.handle({ kind: "choose", value: "own" });
  expect(outputs[0]).toMatchObject({ message: { kind: "accept", value: "bound" } });
  zero.handle(from(0, { kind: "accepted", ballot: B }));
  expect(zero.handle(from(3, { kind: "accepted", ballot: B }))).toEqual([]);
  expect(zero.handle(from(2, { kind: "accepted", ballot: B }))).toEqual([{ kind: "decided", value: "bound" }]);
  expect(zero.handle(from(1, { kind: "accepted", ballot: B })), "once").toEqual([]);
});

test("what was made durable is stood by after a restart", () => {
  const one = voter(1, { promised: ballotOf(3, 2), accepted: { ballot: ballotOf(2, 0), value: "old" } });
  expect(one.isSealed).toBe(true);
  const low = from(0, { kind: "accept", ballot: ballotOf(2, 9), value: "new" });
  expect(one.handle(low)).toMatchObject([{ message: { kind: "refused", promised: ballotOf(3, 2) } }]);
  expect(one.handle({ kind: "propose" })).toMatchObject([{ message: { ballot: ballotOf(4, 1) } }]);
});

test("the value of the highest accepted ballot binds", () => {
  const promise = (node: number, ballot: number | null) => {
    return { node, accepted: ballot === null ? null : { ballot, value: `of ${ballot}` }, evidence: null };
  };
  expect(boundValue([promise(0, 3), promise(1, 9), promise(2, 5)])).toBe("of 9");
  expect(boundValue([promise(0, null), promise(1, 4)])).toBe("of 4");
  expect(boundValue([promise(0, null)])).toBeUndefined();
});
