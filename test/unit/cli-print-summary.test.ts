/** @file What a run's end says: the summary on standard output, and on standard error what was stated and not kept. */
import { afterEach, describe, expect, test, vi } from "vitest";
import { printSummary } from "../../src/cli/print-summary.ts";
import { parseSettings } from "../../src/config/settings.ts";
import { noTime } from "../../src/metrics/accounting.ts";
import { buildSummary, type NodeReport } from "../../src/metrics/summary.ts";

afterEach(() => vi.restoreAllMocks());

const facts = { parameters: 1, engine: "wasm", losses: [2, 1], firstStep: 0, testAccuracy: 0.5 };

function summaryOf(stated: Readonly<Record<string, unknown>>, changes: Partial<NodeReport>): Record<string, unknown> {
  const report: NodeReport = {
    ...{ node: 0, peerId: "peer", role: "stage", layers: [[0, 4]], parameters: 1, neighbours: 0 },
    ...{ times: noTime, steadyTimes: noTime, communicationCpuMs: 0, bytesSent: 0, bytesReceived: 0, messagesSent: 0 },
    ...{ peakRssBytes: 1, stepMsMedian: 1, layerDigests: {}, initialLayerDigests: {} },
    ...{ costs: { laps: [], update: 0 }, pace: null, link: null, ...changes },
  };
  const settings = parseSettings({ nodes: 1, ...stated });
  return buildSummary({ ...facts, settings, idleTheory: 0, idleFormula: null }, [report]);
}

function printed(summary: Record<string, unknown>, asJson = false): { stdout: string; stderr: string } {
  const written = { stdout: "", stderr: "" };
  for (const name of ["stdout", "stderr"] as const) {
    vi.spyOn(process[name], "write").mockImplementation((text) => {
      written[name] += String(text);
      return true;
    });
  }
  printSummary(summary, "here", asJson);
  return written;
}

describe("warnings", () => {
  const missed = { paced: 90, missed: 2, worstRatio: 1.54 };
  const late = { sent: 40, late: 3, worstLateMs: 7.25 };

  test("are none where what was stated was kept", () => {
    const kept = { pace: { ...missed, missed: 0 }, link: { ...late, late: 0 } };
    expect(printed(summaryOf({ pace: "1GFLOP/s", link: "1ms" }, kept)).stderr).toBe("");
    expect(printed(summaryOf({}, {})).stderr).toBe("");
  });

  test("are one line each for operations and for parts, apart from the JSON", () => {
    const summary = summaryOf({ pace: "1GFLOP/s", link: "1ms" }, { pace: missed, link: late });
    const { stdout, stderr } = printed(summary, true);
    expect(JSON.parse(stdout)).toEqual(JSON.parse(JSON.stringify(summary)));
    const [pace, link, ...rest] = stderr.split("\n");
    expect(pace).toMatch(
      /^warning: 2 of 90 paced operations took longer than --pace says \(the worst 1.5 times as long\): /,
    );
    expect(link).toMatch(/^warning: 3 of 40 parts left later than --link says \(the worst by 7.[23] ms\): /);
    expect(rest).toEqual([""]);
  });
});

test("for people, what is emulated is named, and nothing where nothing is", () => {
  const stated = { pace: "1GFLOP/s", link: "1ms", memoryLimit: "1GiB" };
  expect(printed(summaryOf(stated, {})).stdout).toMatch(/^emulated: +pace 1GFLOP\/s, link 1ms, memory limit 1GiB$/m);
  expect(printed(summaryOf({}, {})).stdout).not.toContain("emulated");
});
