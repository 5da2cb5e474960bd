/**
 * @file A folder that one live process has to itself. Each process that wants it makes a file of its own there, named by its pid and start
 * time, and then looks for others: of two that come at once at least one sees the other, so that both never hold it (it may be that
 * neither does). Files of dead processes are removed. Limits: processes of one machine that see each other's
 * pids; without /proc a pid that is used again counts as the old process.
 */
import { readFileSync } from "node:fs";
import { readdir, realpath, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { UsageError } from "../types/errors.ts";
import { isAlive } from "./process-control.ts";

const LOCK = /^lock-(?<pid>\d{1,10})-(?<start>[\w-]{1,64})$/;

/** This process's own: a file alone cannot tell them from those of a dead process that had the same pid. */
const held = new Set<string>();

/** Gives the release. Throws UsageError with the pid where a live process has the folder. */
export async function lockFolder(folder: string): Promise<() => Promise<void>> {
  const name = `lock-${process.pid}-${startOf(process.pid)}`;
  const file = join(await realpath(folder), name);
  if (held.has(file)) throw inUse(folder, process.pid);
  held.add(file);
  const release = async (): Promise<void> => {
    held.delete(file);
    await rm(file, { force: true });
  };
  try {
    await writeFile(file, "", { mode: 0o600 });
    for (const other of (await readdir(folder)).filter((each) => each !== name)) await removeDead(folder, other);
    return release;
  } catch (error) {
    await release();
    throw error;
  }
}

async function removeDead(folder: string, name: string): Promise<void> {
  const { pid, start } = LOCK.exec(name)?.groups ?? {};
  if (pid === undefined) return;
  // A pid is used again, a start time on the same boot is not.
  if (isAlive(Number(pid)) && startOf(Number(pid)) === start) throw inUse(folder, Number(pid));
  await rm(join(folder, name), { force: true });
}

function inUse(folder: string, pid: number): UsageError {
  return new UsageError(
    `${folder} is in use by process ${pid}`,
    `end it first (kill ${pid}), or give this node a folder of its own`,
  );
}

/** Boot and clock ticks since then (proc(5), stat, field 22); one word for all where the system does not tell, or the process is gone. */
function startOf(pid: number): string {
  try {
    const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ").at(-1)?.split(" ") ?? [];
    const boot = readFileSync("/proc/sys/kernel/random/boot_id", "utf8").slice(0, 8);
    return `${boot}-${fields[19]}`;
  } catch {
    return "unknown";
  }
}
