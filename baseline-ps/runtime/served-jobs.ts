/** @file The jobs whose keys one process serves, each apart from the others, and which of them it served at the same time. */
import { defined } from "../../src/types/assert.ts";

export class ServedJobs {
  /** By job that is served now: the others that were served meanwhile. */
  readonly #met = new Map<string, Set<string>>();

  /** Counts `job` as served until `work` has ended, well or not. */
  async during(job: string, work: () => Promise<void>): Promise<void> {
    const present = [...this.#met.keys()];
    for (const met of this.#met.values()) met.add(job);
    this.#met.set(job, new Set(present));
    try {
      await work();
    } finally {
      this.#met.delete(job);
    }
  }

  /** The others that were served since `job` began, those that have ended among them. */
  metBy(job: string): readonly string[] {
    return [...defined(this.#met.get(job), "the job is served")];
  }
}
