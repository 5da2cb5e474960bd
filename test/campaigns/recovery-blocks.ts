/** @file Blocks of seeds of the recovery simulation: what one comes to, in sums, so that blocks add up. */
/** Seeds of a block. */
export const BLOCK = 1_000;

export type Counts = Readonly<Record<string, number>>;

/** What a block of seeds came to; sums, so that blocks add up. */
export interface Block {
  readonly seed: number;
  readonly counts: Counts;
  readonly crashes: Counts;
  readonly recomputed: Counts;
  readonly resumed: Counts;
  readonly broken: readonly { readonly seed: number; readonly rule: string }[];
}

export function add(into: Record<string, number>, from: Counts): void {
  for (const [name, count] of Object.entries(from)) into[name] = (into[name] ?? 0) + count;
}
