/** @file What goes wrong while a node acts on what was decided: it is told, and the node votes on; only a disk makes it abstain. */
import { rmSync } from "node:fs";
import { afterAll, expect, test } from "vitest";
import { Membership } from "../../ring/core/membership.ts";
import type { MembershipInput, MembershipOutput } from "../../ring/core/membership-messages.ts";
import type { Control } from "../../ring/runtime/control.ts";
import { Council } from "../../ring/runtime/council.ts";
import { NodeState } from "../../ring/runtime/node-state.ts";
import { until } from "../helpers/cli.ts";
import { holdingsOf } from "../helpers/membership-ring.ts";
import { Scratch } from "../helpers/memory-ring.ts";
import { madeCandidate, madeView } from "../helpers/view-explorer-views.ts";

const VIEW = madeView(3);
const BUG = new Error("a bug");
const PERSIST: MembershipOutput = { kind: "persist", view: VIEW, id: 7, vote: { promised: 1, accepted: null } };

const scratch = new Scratch();
afterAll(() => scratch.remove());

/** Answers each input as the test says, and notes it. */
class Scripted extends Membership {
  readonly inputs: string[] = [];
  script: (input: MembershipInput) => readonly MembershipOutput[] = () => [];

  override handle(input: MembershipInput): ReturnType<Membership["handle"]> {
    this.inputs.push(input.kind);
    return [...this.script(input)];
  }
}

async function made() {
  const folder = await scratch.state();
  const state = await NodeState.open(folder, "ab", true, () => {});
  const membership = new Scripted({
    ...{ self: madeCandidate(0), node: 0, view: VIEW, vote: null, isMember: true, replicas: 1 },
    holdings: (of) => holdingsOf(of, 0),
  });
  const told: string[] = [];
  const nothing = (): void => {};
  const council = new Council({
    ...{ peerId: "peer-0", membership, state, control: undefined as unknown as Control },
    events: {
      ...{ seal: nothing, outside: nothing, start: nothing, lost: nothing },
      install: () => {
        throw BUG;
      },
      notDurable: (reason) => told.push(`not durable: ${reason}`),
      failed: (error) => told.push(`failed: ${String(error)}`),
    },
  });
  return { council, membership, folder, told };
}

test("who meets a bug in one input throws it, and handles the next", async () => {
  const { council, membership } = await made();
  membership.script = ({ kind }) => (kind === "still" ? [{ kind: "install", view: VIEW }] : []);
  expect(() => council.handle({ kind: "still" })).toThrow(BUG);
  council.handle({ kind: "stalled" });
  expect(membership.inputs).toEqual(["still", "stalled"]);
});

test("a bug in what follows from a vote is no fault of the disk, and the next vote is written", async () => {
  const { council, membership, told } = await made();
  membership.script = ({ kind }) => {
    if (kind === "still") return [PERSIST];
    return kind === "persisted" ? [{ kind: "install", view: VIEW }] : [];
  };
  council.handle({ kind: "still" });
  await until(() => told.length > 0, "the failure");
  council.handle({ kind: "still" });
  await until(() => told.length > 1, "the next one");
  expect(told).toEqual(["failed: Error: a bug", "failed: Error: a bug"]);
  expect(membership.inputs).toEqual(["still", "persisted", "still", "persisted"]);
});

test("a vote that is larger than any can be is no fault of the disk", async () => {
  const { council, membership, told } = await made();
  const sources = Array.from({ length: 10_000 }, () => ({ holders: [0, 1], digest: "0".repeat(32) }));
  membership.script = ({ kind }) => (kind === "still" ? [{ ...PERSIST, view: { ...VIEW, sources } }] : []);
  council.handle({ kind: "still" });
  await until(() => told.length > 0, "the failure");
  expect(told).toEqual([expect.stringMatching(/^failed: AssertionFailed: a vote has at most/)]);
});

test("a disk that does not take a vote makes the node abstain, and is told", async () => {
  const { council, membership, folder, told } = await made();
  membership.script = ({ kind }) => (kind === "still" ? [PERSIST] : []);
  rmSync(folder.path, { recursive: true });
  council.handle({ kind: "still" });
  await until(() => membership.inputs.length > 1, "the answer");
  expect(membership.inputs).toEqual(["still", "notPersisted"]);
  expect(told).toEqual([expect.stringContaining("cannot be made durable")]);
});
