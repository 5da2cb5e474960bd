/** @file Which engines a process offers to its job, by kind and by identity. */
import type { EngineKind } from "../engine/contract.ts";
import { engineId } from "../engine/identity.ts";
import { supportedEngines } from "../engine/load.ts";
import { UsageError } from "../types/errors.ts";

export interface EngineChoice {
  /** The preferred first. */
  readonly kinds: readonly EngineKind[];
  /** Kind and digest of a probe's bits, for each kind. */
  readonly ids: readonly string[];
}

/** @param wanted `auto`, or one kind. Throws UsageError where this Node cannot run it. */
export function chooseEngines(wanted: "auto" | EngineKind): EngineChoice {
  const kinds = supportedEngines().filter((kind) => wanted === "auto" || kind === wanted);
  if (kinds.length === 0) {
    throw new UsageError(`--engine ${wanted} does not run on this Node`, "use --engine auto, or a newer Node");
  }
  return { kinds, ids: kinds.map(engineId) };
}
