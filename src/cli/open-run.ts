/** @file A run's folder as it is begun with, or gone on in: what every system does first, before any network is there. */
import { fingerprintOf } from "../config/fingerprint.ts";
import type { Settings } from "../config/settings.ts";
import type { DataSet } from "../data/dataset.ts";
import { RUN_FILES, RunFolder } from "../metrics/run-folder.ts";
import { checkSameJob, newestCheckpoint, removeDrafts } from "../runtime/checkpoint.ts";
import { checkSameData } from "../runtime/job-data.ts";

/** A fresh folder, or the one to go on in with what it holds. */
export function openRun(
  settings: Settings,
  out: string,
  options: { readonly force: boolean; readonly resume: boolean },
  data: DataSet,
  warn: (text: string) => void,
): { readonly folder: RunFolder; readonly firstStep: number } {
  if (!options.resume) {
    const folder = RunFolder.create(out, options.force);
    folder.writeJson(RUN_FILES.config, settings);
    return { folder, firstStep: 0 };
  }
  const folder = new RunFolder(out);
  const { manifest } = newestCheckpoint(folder, warn);
  checkSameData(folder, data, `--resume ${out}`);
  // Which engine runs is settled later; that it is the same one is checked where the settings are.
  const engine = String(manifest.fingerprint["engine"]);
  checkSameJob(manifest, fingerprintOf(settings, data.sha256, engine), `--resume ${out}`);
  const firstStep = manifest.step;
  removeDrafts(folder);
  folder.cutMetrics(firstStep);
  folder.writeJson(RUN_FILES.config, settings);
  return { folder, firstStep };
}
