/**
 * @file The one reader of a clock. Milliseconds since 1970 with microsecond resolution, monotonic within a thread, common
 * to all threads and, as far as the system's clock was not set between their starts, to all processes of a machine.
 */

export function nowMs(): number {
  return performance.timeOrigin + performance.now();
}
