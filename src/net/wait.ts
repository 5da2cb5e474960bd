/** @file Bounded waits. */

/**
 * The outcome of `promise`, or that of `onLimit` when it takes longer than `limitMs`. The timer ends with the wait.
 */
export async function within<T, L>(promise: Promise<T>, limitMs: number, onLimit: () => L): Promise<T | L> {
  const limit = Promise.withResolvers<L>();
  const timer = setTimeout(() => {
    try {
      limit.resolve(onLimit());
    } catch (error) {
      limit.reject(error);
    }
  }, limitMs);
  try {
    return await Promise.race([promise, limit.promise]);
  } finally {
    clearTimeout(timer);
  }
}
