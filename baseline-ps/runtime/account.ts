/** @file Where one process's time goes, and what it says of itself at the end. */
import { TimeAccount } from "../../src/metrics/accounting.ts";
import type { NodeReport } from "../../src/metrics/summary.ts";
import type { Link } from "../../src/net/link.ts";
import { peakRssBytes, threadCpuMs, ThreadSampler } from "../../src/runtime/process-sample.ts";
import { StageClockwork } from "../../src/runtime/stage-clockwork.ts";

export interface NodeFacts extends Pick<NodeReport, "node" | "peerId" | "role" | "layers" | "parameters"> {
  readonly counters: Pick<NodeReport, "bytesSent" | "bytesReceived" | "messagesSent">;
  readonly neighbours: number;
  readonly layerDigests: Readonly<Record<string, string>>;
  readonly initialLayerDigests: Readonly<Record<string, string>>;
  readonly pace: NodeReport["pace"];
  readonly link: NodeReport["link"];
}

/** What went over the network: what a process says to itself takes its memory, and is no traffic. */
export function trafficOf(links: readonly Link[], ownPeerId: string): NodeFacts["counters"] {
  const outer = links.filter(({ remotePeer }) => remotePeer !== ownPeerId);
  return {
    bytesSent: outer.reduce((sum, { sent }) => sum + sent.bytes, 0),
    bytesReceived: outer.reduce((sum, { received }) => sum + received.bytes, 0),
    messagesSent: outer.reduce((sum, { sent }) => sum + sent.messages, 0),
  };
}

export class NodeAccount {
  readonly clockwork: StageClockwork;
  /** By how many steps the parameters of a worker's newest share lagged; null without one. */
  lag: () => number | null = () => null;
  readonly #startedCpuMs = threadCpuMs();

  constructor() {
    const sampler = new ThreadSampler();
    this.clockwork = new StageClockwork(new TimeAccount(sampler.sample()), sampler, 1);
  }

  report({ counters, ...facts }: NodeFacts): NodeReport {
    const { times, steadyTimes, stepMsMedian, costs } = this.clockwork;
    return {
      ...facts,
      ...counters,
      ...{ times, steadyTimes, stepMsMedian, costs },
      communicationCpuMs: threadCpuMs() - this.#startedCpuMs,
      peakRssBytes: peakRssBytes(),
    };
  }
}
