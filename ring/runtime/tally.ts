/** @file What a node counts through all its views, for its report: bytes and messages on its edges, neighbours, time of the protocol thread. */
import type { Settings } from "../../src/config/settings.ts";
import type { Lateness } from "../../src/net/shaped.ts";
import type { NodeReport } from "../../src/metrics/summary.ts";
import { threadCpuMs } from "../../src/runtime/process-sample.ts";
import type { NodeTraffic } from "../core/copies.ts";
import type { RingMember, RingView } from "../core/view.ts";
import { neighboursOf, type EdgeCounters } from "./edges.ts";
import { nodeReport, type ReportSource } from "./report.ts";
import type { Session } from "./session.ts";

export class Tally {
  readonly #settings: Settings;
  #startedCpuMs = 0;
  #neighbours = 0;
  #ended: EdgeCounters = { bytesSent: 0, bytesReceived: 0, messagesSent: 0 };

  constructor(settings: Settings) {
    this.#settings = settings;
  }

  start(): void {
    this.#startedCpuMs = threadCpuMs();
  }

  sessionBegan(view: RingView, node: number): void {
    if (view.owners.length === 1) return;
    const { predecessor, successor } = neighboursOf(view, node);
    this.#neighbours = Math.max(this.#neighbours, predecessor === successor ? 1 : 2);
  }

  sessionEnded({ counters }: Session): void {
    this.#ended = sum(this.#ended, counters);
  }

  /** @param copies bytes on the streams of copies */
  report(
    source: ReportSource,
    member: RingMember,
    { session, copies, link }: { session: Session | undefined; copies: NodeTraffic; link: Lateness | null },
  ): NodeReport {
    const counters = session === undefined ? this.#ended : sum(this.#ended, session.counters);
    return nodeReport(source, {
      ...{ member, settings: this.#settings, neighbours: this.#neighbours, link },
      counters: sum(counters, { bytesSent: copies.sent, bytesReceived: copies.received, messagesSent: 0 }),
      communicationCpuMs: threadCpuMs() - this.#startedCpuMs,
    });
  }
}

const sum = (a: EdgeCounters, b: EdgeCounters): EdgeCounters => ({
  bytesSent: a.bytesSent + b.bytesSent,
  bytesReceived: a.bytesReceived + b.bytesReceived,
  messagesSent: a.messagesSent + b.messagesSent,
});
