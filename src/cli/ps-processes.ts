/** @file Which processes a parameter server has, what each of them does, and how nodes are numbered. Pure. */
import { nameOf, type PsRole } from "../../baseline-ps/index.ts";
import type { Settings } from "../config/settings.ts";

export const SCHEDULER: PsRole = { kind: "scheduler", index: 0 };

const STANDBY: PsRole = { kind: "standby", index: 0 };

/** What each process does, in the order of their start; the manager apart. @param hasServers false: they are another run's */
export function processesOf(
  { nodes, servers, coLocate, dataServers, serverReplicas }: Settings,
  hasServers = true,
): readonly (readonly PsRole[])[] {
  const all = (kind: PsRole["kind"], count: number): PsRole[] =>
    Array.from({ length: count }, (_, index) => ({ kind, index }));
  const worker = (role: PsRole): PsRole[] => [role, ...(coLocate && role.index < servers ? [serverIn(role)] : [])];
  const alone = [...all("server", coLocate || !hasServers ? 0 : servers), ...all("data", dataServers)];
  const standby = all("standby", serverReplicas > 0 ? 1 : 0);
  return [
    [SCHEDULER],
    ...standby.map((role) => [role]),
    ...alone.map((role) => [role]),
    ...all("worker", nodes).map(worker),
  ];
}

const serverIn = ({ index }: PsRole): PsRole => ({ kind: "server", index });

/** Such as `worker 1 and server 1`. */
export const namesOf = (roles: readonly PsRole[]): string => roles.map(nameOf).join(" and ");

/** By role; servers in workers' processes have those' numbers. Workers first, then servers, as in `summary.json`; behind them those that hold nothing of the model. */
export function nodeOf({ kind, index }: PsRole, settings: Settings): number {
  const { nodes, servers, coLocate } = settings;
  switch (kind) {
    case "worker":
      return index;
    case "server":
      if (index >= servers) return nodeOf(STANDBY, settings) + 1 + index - servers;
      return coLocate ? index : nodes + index;
    case "scheduler":
      return coLocate ? nodes : nodes + servers;
    case "standby":
      return nodeOf(SCHEDULER, settings) + 2 + settings.dataServers;
    // Behind the manager.
    case "data":
      return nodeOf(SCHEDULER, settings) + 2 + index;
  }
}
