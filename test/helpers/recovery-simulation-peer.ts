/** @file A simulated peer: what outlives its processes, that is its name and its disk. */
import type { Vote } from "../../ring/core/agreement.ts";
import type { Candidate } from "../../ring/core/formation.ts";
import type { RingView } from "../../ring/core/view.ts";
import type { RecoveryProcess } from "./recovery-simulation-process.ts";

export interface VoteRecord {
  readonly view: RingView;
  readonly vote: Vote<RingView> | null;
}

/** What is durable. A record is replaced as a whole: a crash leaves the one before, or the new one. */
export interface SimulatedDisk {
  votes: VoteRecord | undefined;
  /** The highest version told to a user. */
  reported: number;
  freeMs: number;
  slowUntilMs: number;
  slowMs: number;
  badUntilMs: number;
}

export class SimulatedPeer {
  readonly index: number;
  readonly peerId: string;
  readonly disk: SimulatedDisk = { votes: undefined, reported: 0, freeMs: 0, slowUntilMs: 0, slowMs: 0, badUntilMs: 0 };
  boots = 0;
  process: RecoveryProcess | undefined;
  /** It will not come back. */
  isGone = false;
  /** Until then a view may be decided without it. */
  silentUntilMs = 0;
  slowComputeUntilMs = 0;
  slowComputeMs = 0;

  constructor(index: number) {
    this.index = index;
    this.peerId = `peer${index}`;
  }

  get candidate(): Candidate {
    const { index, peerId, boots: boot } = this;
    const incarnation = index.toString(16).padStart(32, "0");
    return { peerId, addresses: [], machine: "m", incarnation, boot, engines: ["e"], wish: null };
  }
}
