/** @file A scenario that breaks a rule, made as small as it will still break one: fewer faults, fewer nodes, a calmer network, a shorter run. */
import type { Fault, RecoveryScenario } from "./recovery-simulation-scenario.ts";
import { simulateRecovery } from "./recovery-simulation.ts";

/** What was found by then is small enough. */
const LIMIT_MS = 15_000;

/** The rule that a scenario breaks, as `V3` or as the message of what was thrown; undefined: none. */
export function brokenRule(scenario: RecoveryScenario): string | undefined {
  try {
    simulateRecovery(scenario);
    return undefined;
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    return /^[VL]\d+/.exec(message)?.[0] ?? message.replace(/\d+/g, "#");
  }
}

/** @param scenario breaks a rule; what is returned breaks the same one */
export function shrink(scenario: RecoveryScenario): RecoveryScenario {
  const rule = brokenRule(scenario);
  const endMs = performance.now() + LIMIT_MS;
  for (let smallest = scenario; ;) {
    const next = smaller(smallest).find((candidate) => performance.now() >= endMs || brokenRule(candidate) === rule);
    if (next === undefined || performance.now() >= endMs) return smallest;
    smallest = next;
  }
}

/** The boldest first. */
function* smaller(scenario: RecoveryScenario): Generator<RecoveryScenario> {
  const { faults, nodes, owners, laps, layers, replicas } = scenario;
  for (const fault of faults) yield { ...scenario, faults: faults.filter((each) => each !== fault) };
  if (nodes > 1 && owners < nodes && replicas < nodes - 1) yield { ...scenario, nodes: nodes - 1 };
  if (owners > 1) yield { ...scenario, owners: owners - 1 };
  if (replicas > 0) yield { ...scenario, replicas: replicas - 1 };
  if (laps > 1) yield { ...scenario, laps: laps - 1 };
  if (layers > owners * laps) yield { ...scenario, layers: owners * laps };
  const calm = { lossPermille: 0, duplicatePermille: 0, delayMs: 1, diskMs: 1, stageMs: 5 } as const;
  for (const [name, value] of Object.entries(calm)) {
    if (scenario[name as keyof typeof calm] !== value) yield { ...scenario, [name]: value };
  }
  const lastMs = Math.max(0, ...faults.map(({ atMs }) => atMs)) + 500;
  if (lastMs < scenario.healMs) yield { ...scenario, healMs: lastMs };
  for (const [index, fault] of faults.entries()) {
    for (const milder of milderFaults(fault)) yield { ...scenario, faults: faults.with(index, milder) };
  }
}

function* milderFaults(fault: Fault): Generator<Fault> {
  if (fault.kind === "crash" || fault.kind === "crashPoint") {
    if (fault.wipe) yield { ...fault, wipe: false };
    if (fault.restartMs === null) yield { ...fault, restartMs: 300 };
  }
  if (fault.kind === "crashPoint" && fault.nth > 1) yield { ...fault, nth: fault.nth - 1 };
  if ("forMs" in fault && fault.forMs > 100) yield { ...fault, forMs: Math.floor(fault.forMs / 2) };
  if (fault.atMs > 100) yield { ...fault, atMs: Math.floor(fault.atMs / 2) };
}
