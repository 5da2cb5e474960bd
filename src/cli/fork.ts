/**
 * @file A new run that begins with another one's newest checkpoint: its folder gets a copy of that checkpoint, of the steps before it and of
 * what they ran on, under the new run's settings. The other run's folder is only read.
 */
import { copyFileSync, mkdirSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { fingerprintOf } from "../config/fingerprint.ts";
import type { Settings } from "../config/settings.ts";
import { RUN_FILES, RunFolder } from "../metrics/run-folder.ts";
import { newestCheckpoint, shardDraft, writeManifest } from "../runtime/checkpoint.ts";
import { loadJobData } from "../runtime/job-data.ts";
import { DataError, UsageError } from "../types/errors.ts";

/** After it, `out` is a run to go on with. Throws UsageError where `out` must not be written to, DataError where there is no checkpoint. */
export async function forkRun(
  from: string,
  out: string,
  settings: Settings,
  options: { readonly force: boolean; readonly warn: (text: string) => void },
): Promise<void> {
  const source = new RunFolder(from);
  if (source.path === new RunFolder(out).path) throw new UsageError(`--fork into ${out} itself`, "name another --out");
  const { manifest, files } = newestCheckpoint(source, options.warn);
  const data = await loadJobData(settings);
  const environment = source.readJson(RUN_FILES.environment) as Readonly<Record<string, unknown>>;
  const lines = source.readMetrics().slice(0, manifest.step);
  const folder = RunFolder.create(out, options.force);
  const path = dirname(shardDraft(folder, manifest.step, [0, 0]));
  mkdirSync(path, { recursive: true });
  for (const file of files) copyFileSync(file, join(path, basename(file)));
  const fingerprint = fingerprintOf(settings, data.sha256, String(manifest.fingerprint["engine"]));
  const durability = await writeManifest(folder, { ...manifest, fingerprint });
  if (durability.kind === "notDurable")
    throw new DataError(`--fork: ${durability.reason}`, "free space, or use another disk");
  folder.writeLines(RUN_FILES.metrics, lines);
  folder.writeJson(RUN_FILES.environment, { ...environment, dataSha256: data.sha256 });
  folder.writeJson(RUN_FILES.config, settings);
}
