/**
 * @file Schedules again, dumb: instead of a formula, the lists are found by playing the rule of each schedule with counters.
 * Shares no code with the program.
 */

/** What a stage does in one step, as texts. 1F1B: prefer a backward as soon as the stage may hold no more. */
export function dumbSchedule(kind: "gpipe" | "1f1b", stages: number, microBatches: number, stage: number): string[] {
  const heldMax = kind === "gpipe" ? microBatches : stages - stage;
  const tasks: string[] = [];
  let forwards = 0;
  let backwards = 0;
  while (backwards < microBatches) {
    const mayHoldMore = forwards - backwards < heldMax && forwards < microBatches;
    if (mayHoldMore) {
      tasks.push(`${stage}F${forwards}`);
      forwards += 1;
    } else {
      tasks.push(`${stage}B${backwards}`, `${stage}W${backwards}`);
      backwards += 1;
    }
  }
  return tasks;
}

/** Every way to cut `costs` into `parts` contiguous pieces that are not empty, as lists of `[start, end)`. */
export function everyCut(layers: number, parts: number, from = 0): [number, number][][] {
  if (parts === 1) return from < layers ? [[[from, layers]]] : [];
  const cuts: [number, number][][] = [];
  for (let end = from + 1; end < layers; end += 1) {
    for (const rest of everyCut(layers, parts - 1, end)) cuts.push([[from, end], ...rest]);
  }
  return cuts;
}
