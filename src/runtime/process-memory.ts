/**
 * @file The guard of a node's memory limit: looks at the process's resident size, which holds the engine's memory, all threads and
 * the program itself. It looks between other work, so what is allocated within an interval or one long task is
 * seen after the fact; a control group is the hard limit, where there is one.
 */

const INTERVAL_MS = 100;

/**
 * Calls once, with the resident size in bytes, when it is above the limit. Does not keep the process alive.
 * @returns ends the watch
 */
export function watchMemory(limitBytes: number, onExceeded: (residentBytes: number) => void): () => void {
  const timer = setInterval(() => {
    const residentBytes = process.memoryUsage.rss();
    if (residentBytes <= limitBytes) return;
    clearInterval(timer);
    onExceeded(residentBytes);
  }, INTERVAL_MS);
  timer.unref();
  return () => clearInterval(timer);
}
