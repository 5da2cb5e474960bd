/** @file The disk of a simulated peer: it takes its time, may fail, and when a process dies in a rename that may have been done, or not. */
import type { VoteRecord } from "./recovery-simulation-peer.ts";
import type { RecoveryProcess } from "./recovery-simulation-process.ts";
import type { CrashPoint } from "./recovery-simulation-scenario.ts";

type Done = (isDurable: boolean) => void;

/** A vote or a view comes to the disk, one after the other. */
export function writeVote(
  process: RecoveryProcess,
  kind: "view" | "promise" | "accept",
  record: VoteRecord,
  done: Done,
): void {
  const apply = (): void => {
    process.peer.disk.votes = record;
    process.world.durable(process.peer);
  };
  write(process, `${kind}Writing`, `${kind}Durable`, apply, done);
}

/** @param version told to a user next */
export function writeReported(process: RecoveryProcess, version: number, done: Done): void {
  const { disk } = process.peer;
  const apply = (): void => {
    disk.reported = Math.max(disk.reported, version);
  };
  write(process, "reportedWriting", "reportedDurable", apply, done);
}

function write(
  process: RecoveryProcess,
  writing: CrashPoint,
  durable: CrashPoint,
  apply: () => void,
  done: Done,
): void {
  const { world, peer } = process;
  const { disk } = peer;
  const { nowMs } = world;
  const slowMs = nowMs < disk.slowUntilMs ? disk.slowMs : 0;
  const takesMs = 0.2 + world.random.nextFloat() * world.scenario.diskMs + slowMs;
  const startMs = Math.max(nowMs, disk.freeMs);
  disk.freeMs = startMs + takesMs;
  const isBad = nowMs < disk.badUntilMs;
  process.later(startMs + takesMs / 2 - nowMs, () => {
    process.inRename = isBad ? undefined : apply;
    world.faults.reached(process, writing);
  });
  process.later(startMs + takesMs - nowMs, () => {
    process.inRename = undefined;
    if (!isBad) apply();
    if (!isBad) world.faults.reached(process, durable);
    done(!isBad);
  });
}
