/** @file `train --system serial`: one process, in this one. */
import { randomBytes } from "node:crypto";
import { realpathSync } from "node:fs";
import { RUN_FILES } from "../metrics/run-folder.ts";
import { nowMs } from "../runtime/clock.ts";
import { loadJobData } from "../runtime/job-data.ts";
import { entryFor, serveControl } from "../runtime/process-control.ts";
import { describeEnvironment } from "../runtime/process-environment.ts";
import { SerialRun } from "../runtime/serial.ts";
import { ExitCode } from "../types/errors.ts";
import { openRun } from "./open-run.ts";
import { notDurableText, type Progress } from "./progress.ts";
import type { RunRequest, RunResult } from "./run-request.ts";

const SIGNALS = ["SIGINT", "SIGTERM"] as const;

export async function trainSerial(request: RunRequest, progress: Progress): Promise<RunResult> {
  const { settings, out } = request;
  const data = await loadJobData(settings);
  const { folder, firstStep } = openRun(settings, out, request, data, (text) => progress.say(`warning: ${text}`));
  const onCommitted = (step: number, loss: number): void => progress.step(step, settings.steps, loss);
  const onNotDurable = (step: number, reason: string): void => progress.say(notDurableText(step, reason));
  const run = new SerialRun({ settings, data, folder, firstStep, onCommitted, onNotDurable });
  folder.writeJson(RUN_FILES.environment, {
    ...describeEnvironment(run.engineId, settings),
    dataSha256: data.sha256,
  });
  let interrupted = false;
  const onSignal = (): void => {
    if (interrupted) process.exit(ExitCode.interrupted);
    interrupted = true;
    progress.say("interrupted: finishing the step and writing the results (once more ends at once)");
    run.requestStop();
  };
  for (const signal of SIGNALS) process.on(signal, onSignal);
  const job = randomBytes(8).toString("hex");
  const entry = entryFor({
    job,
    name: settings.name,
    system: "serial",
    node: 0,
    startedMs: nowMs(),
    out: realpathSync(folder.path),
  });
  const control = await serveControl(entry, (asked) => {
    if (asked === "stop") run.requestStop();
    if (asked !== "stop" && asked !== "status") return { isDone: false, reason: "one process alone is no ring" };
    const { losses, ...state } = run.describe();
    const members = [{ node: 0, peerId: "", addresses: [], layers: [run.layers] }];
    return {
      job,
      system: "serial",
      view: 0,
      steps: settings.steps,
      node: 0,
      pid: process.pid,
      state: "training",
      loss: losses.at(-1) ?? null,
      ...state,
      members,
    };
  });
  try {
    return { summary: await run.train(), interrupted };
  } finally {
    control.close();
    for (const signal of SIGNALS) process.off(signal, onSignal);
  }
}
