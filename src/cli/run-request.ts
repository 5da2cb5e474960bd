/** @file What `up` and `train` ask a system for, and what they get. */
import type { Settings } from "../config/settings.ts";

/** What a run is asked for beside its settings. */
export interface RunRequest {
  readonly settings: Settings;
  readonly out: string;
  readonly force: boolean;
  readonly resume: boolean;
  readonly local: number;
  readonly listen: string | null;
  readonly invite: string | null;
  /** Another run, by its job, name or folder, whose servers serve this one too. */
  readonly serversOf: string | null;
}

/** A run that ended in order; `interrupted` where the user ended it. */
export interface RunResult {
  readonly summary: Record<string, unknown>;
  readonly interrupted: boolean;
}
