/**
 * @file Schedules again, dumb: instead of a formula, the lists are found by playing the rule of each schedule with counters.
 * Shares no code with the program.
 */

type Pass = readonly [lap: number, microBatch: number];

/** Groups of as many micro-batches as nodes, each group through all laps: the order of the passes of one direction. */
function dumbOrder(nodes: number, laps: readonly number[], microBatches: number): Pass[] {
  const order: Pass[] = [];
  for (let first = 0; first < microBatches; first += nodes) {
    for (const lap of laps) {
      for (let microBatch = first; microBatch < Math.min(first + nodes, microBatches); microBatch += 1) {
        order.push([lap, microBatch]);
      }
    }
  }
  return order;
}

/** Most passes between F and B, and most between B and W, as the pictures of each schedule show them. */
function dumbLimits(kind: string, nodes: number, laps: number, microBatches: number, node: number): [number, number] {
  const after = nodes - 1 - node;
  if (kind === "naive") return [1, 0];
  if (kind === "gpipe") return [microBatches, 0];
  if (kind === "1f1b") return [after + 1, 0];
  // Warm-up of interleaved 1F1B, as Megatron-LM counts it, and the forward that opens the steady part.
  if (kind === "interleaved") return [2 * after + (laps - 1) * nodes + 1, 0];
  return [after + 1, node];
}

/** What a node does in one step, as texts. It forwards while it may, else it goes backward; a W waits where it may. */
export function dumbSchedule(kind: string, nodes: number, laps: number, microBatches: number, node: number): string[] {
  const numbers = Array.from({ length: laps }, (_, lap) => lap);
  const forwards = dumbOrder(nodes, numbers, microBatches);
  const backwards = dumbOrder(nodes, numbers.toReversed(), microBatches);
  const weights = [...backwards];
  const [flyingMax, waitingMax] = dumbLimits(kind, nodes, laps, microBatches, node);
  const tasks: string[] = [];
  const add = (letter: string, [lap, microBatch]: Pass): number =>
    tasks.push(`${lap * nodes + node}${letter}${microBatch}`);
  while (backwards.length > 0) {
    const flying = backwards.length - forwards.length;
    if (forwards.length > 0 && flying < flyingMax) {
      add("F", forwards.shift()!);
      continue;
    }
    add("B", backwards.shift()!);
    if (weights.length - backwards.length > waitingMax) add("W", weights.shift()!);
  }
  for (const pass of weights) add("W", pass);
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
