/**
 * @file The simulated ring's public face: settings, what they mean in time, and the run in virtual time.
 *
 * ```ts
 * const settings = parseSimulation({ nodes: 1024, schedule: "1f1b", microBatches: 2048 }, readText);
 * const plan = planSimulation(settings, IDEAL_FIT);
 * const { outcome } = simulate(settings, plan, { timelineSteps: 0, wantsTasks: false });
 * const { idlePercentSteady } = summarize(settings, plan, outcome);
 * ```
 */
export { printSchedule } from "../core/schedule-text.ts";
export { calibrateFrom, type CalibratedRuns } from "./measured-run.ts";
export { IDEAL_FIT, planSimulation, type SimulationPlan } from "./plan.ts";
export { entriesPerStep, tasksPerStep, type Recording } from "./recording.ts";
export { summarize } from "./result.ts";
export { OWN_SETTING_NAMES, parseSimulation, type SimulationSettings } from "./settings.ts";
export { simulate } from "./simulate.ts";
