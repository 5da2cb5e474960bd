/** @file What a node would report of itself, with numbers that can be checked in the head. */
import { createHash } from "node:crypto";
import type { NodeReport } from "../../src/metrics/summary.ts";

export const sha = (text: string): string => createHash("sha256").update(text).digest("hex");

/** Of a node that holds the layer with its number. */
export function madeReport(node: number, changes: Partial<NodeReport> = {}): NodeReport {
  const split = (waitMs: number) => ({ computeMs: 60, communicationMs: 10, runQueueMs: 5, waitMs });
  return {
    ...{ node, peerId: `peer-${node}`, role: "stage", layers: [[node, node + 1]], parameters: 10, neighbours: 1 },
    ...{ times: split(25), steadyTimes: split(5), communicationCpuMs: 12, stepMsMedian: 7, peakRssBytes: 100 + node },
    ...{ bytesSent: 1_000 * (node + 1), bytesReceived: 500, messagesSent: 3 },
    layerDigests: { [node]: sha(`${node}`) },
    initialLayerDigests: { [node]: sha(`initial ${node}`) },
    costs: { laps: [{ forward: 1, backward: 1, weight: 1 }], update: 1 },
    ...{ pace: null, link: null },
    ...changes,
  };
}
