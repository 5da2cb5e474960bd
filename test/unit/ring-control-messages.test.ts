/** @file The largest words that a legal run says on a control stream, or keeps of them, each within its bound: a model of 1000 layers. */
import { afterAll, expect, test } from "vitest";
import { CONTROL_BYTES_MAX } from "../../src/wire/header.ts";
import type { NodeReport, RecoveryRecord } from "../../src/metrics/summary.ts";
import { controlSchema, type ControlMessage } from "../../ring/runtime/control-messages.ts";
import { encodeMessage, parseMessage, RECOVERIES_MAX } from "../../ring/runtime/messages.ts";
import { NodeState } from "../../ring/runtime/node-state.ts";
import { madeReport, sha } from "../helpers/made-report.ts";
import { Scratch } from "../helpers/memory-ring.ts";
import { madeMember, madeView } from "../helpers/view-explorer-views.ts";

const scratch = new Scratch();
afterAll(() => scratch.remove());

const LAYERS_MAX = 1000;
const LAPS_MAX = 64;
const COUNT_MAX = 2 ** 31;
const MS = 1_234_567.891_011_12;

const of = <T>(count: number, item: (index: number) => T): T[] =>
  Array.from({ length: count }, (_, index) => item(index));
const digestOf = (layer: number): string => sha(`${layer}`).slice(0, 32);
const lapsOf = (layers: number) => of(LAPS_MAX, (lap): [number, number] => [lap, layers]);

function fullReport(layers: number): NodeReport {
  const digests = Object.fromEntries(of(layers, (layer) => [layer, sha(`${layer}`)]));
  return madeReport(1023, {
    ...{ layers: lapsOf(layers), layerDigests: digests, initialLayerDigests: digests },
    costs: { laps: of(LAPS_MAX, () => ({ forward: MS, backward: MS, weight: MS })), update: MS },
    ...{
      pace: { paced: COUNT_MAX, missed: COUNT_MAX, worstRatio: MS },
      link: { sent: COUNT_MAX, late: 1, worstLateMs: MS },
    },
  });
}

const recovery: RecoveryRecord = {
  ...{ cause: "silent", node: 1023, step: COUNT_MAX, view: COUNT_MAX },
  ...{ detectedMs: 12_345_678.9, resumedMs: 12_345_678.9, recomputedSteps: COUNT_MAX },
};

/** After a recovery, with its sources; of members that say of themselves what real ones do. */
const view = madeView(16, {
  view: COUNT_MAX,
  restoreStep: COUNT_MAX,
  members: of(16, (node) => ({
    ...madeMember(node, COUNT_MAX),
    ...{ peerId: "p".repeat(52), machine: "m".repeat(200), engines: [`wasm:${sha("")}`, `wasm-exact:${sha("")}`] },
    addresses: of(4, (index) => `/ip4/192.168.100.20${index}/tcp/45678/p2p/${"p".repeat(52)}`),
  })),
  sources: of(LAYERS_MAX, (layer) => ({ holders: [1022, 1023], digest: digestOf(layer) })),
});

const messages: Readonly<Record<string, ControlMessage>> = {
  report: {
    ...{ say: "announce", view: COUNT_MAX },
    body: {
      ...{ kind: "report", completedSteps: COUNT_MAX, report: fullReport(LAYERS_MAX) },
      recoveries: of(RECOVERIES_MAX, () => recovery),
    },
  },
  promise: {
    ...{ say: "membership", view: COUNT_MAX },
    message: {
      ...{ kind: "promise", ballot: COUNT_MAX, accepted: { ballot: COUNT_MAX, value: view } },
      evidence: {
        ...{ bound: COUNT_MAX, committed: COUNT_MAX, losses: of(64, () => ({ step: COUNT_MAX, loss: MS })) },
        held: of(LAYERS_MAX, (layer) => of(2, () => ({ version: COUNT_MAX, digest: digestOf(layer) }))),
        severed: [],
      },
    },
  },
  losses: { say: "losses", from: COUNT_MAX, losses: of(2000, () => -MS / 1e300) },
};

test.each(Object.entries(messages))("%s", (_, message) => {
  const bytes = encodeMessage(message);
  expect(parseMessage(controlSchema, bytes)).toEqual(message);
  expect(bytes.byteLength).toBeLessThanOrEqual(CONTROL_BYTES_MAX);
});

test("what is voted on", async () => {
  const folder = await scratch.state();
  const state = await NodeState.open(folder, "ab", true, () => {});
  const vote = { promised: COUNT_MAX, accepted: { ballot: COUNT_MAX, value: view } };
  await state.save(view, vote);
  const again = await NodeState.open(folder, "ab", false, () => {});
  expect(again.voteFor(COUNT_MAX)).toEqual(vote);
});
