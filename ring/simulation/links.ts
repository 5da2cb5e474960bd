/** @file What messages between neighbours take in virtual time: CPU at both ends, a rate, a latency. Order is kept on each edge. */

/** Times in the simulation's unit. */
export interface LinkModel {
  readonly latency: number;
  /**
   * Time that one message's bytes take on the wire, by the lower stage of the two that it is between (an activation and its
   * gradient have the same shape); messages of one direction of an edge wait for each other. Default 0.
   */
  readonly transfers?: readonly number[];
  /** The main thread's time for one message, at the sender and at the receiver; it does one at a time. Default 0. */
  readonly sendCpu?: number;
  readonly receiveCpu?: number;
  /** What chance adds to a message's time; called once for each that a node sends. Default 0. */
  readonly extra?: (node: number) => number;
}

export class SimulatedLinks {
  readonly #model: LinkModel;
  /** When the wire is free again: towards the successor and towards the predecessor, by sender. */
  readonly #wires: Float64Array;
  /** When the newest message of each edge arrives, by sender. */
  readonly #arrivals: Float64Array;
  /** When each node's main thread is free again. */
  readonly #threads: Float64Array;
  readonly #nodes: number;
  /** One hop's, with everything that the largest lone message waits for. */
  readonly latency: number;

  constructor(nodes: number, model: LinkModel = { latency: 0 }) {
    this.#nodes = nodes;
    this.#model = model;
    this.#wires = new Float64Array(2 * nodes);
    this.#arrivals = new Float64Array(2 * nodes);
    this.#threads = new Float64Array(nodes);
    const { latency, transfers = [], sendCpu = 0, receiveCpu = 0 } = model;
    const slowest = transfers.reduce((most, transfer) => Math.max(most, transfer), 0);
    this.latency = latency + slowest + sendCpu + receiveCpu;
  }

  /** When a message that is handed over at `now` comes out of the wire. `from` and `to` are stages, one apart. */
  send(from: number, to: number, now: number): number {
    const { latency, transfers, sendCpu = 0, extra } = this.#model;
    let at = now;
    if (sendCpu > 0) at = this.#busy(this.#threads, from % this.#nodes, at, sendCpu);
    if (transfers !== undefined) {
      const wire = 2 * (from % this.#nodes) + (to > from ? 0 : 1);
      at = this.#busy(this.#wires, wire, at, transfers[Math.min(from, to)]!);
    }
    at += latency;
    if (extra === undefined) return at;
    // Behind the message before it, however late that one is.
    const edge = 2 * (from % this.#nodes) + (to > from ? 0 : 1);
    return this.#busy(this.#arrivals, edge, at + extra(from % this.#nodes), 0);
  }

  /** When `node` has handled a message that comes out of the wire at `now`. Told then and not before: it waits its turn. */
  receive(node: number, now: number): number {
    const { receiveCpu = 0 } = this.#model;
    return receiveCpu > 0 ? this.#busy(this.#threads, node, now, receiveCpu) : now;
  }

  /** Takes its turn, and returns when it is done. */
  #busy(freeAt: Float64Array, place: number, now: number, duration: number): number {
    return (freeAt[place] = Math.max(now, freeAt[place]!) + duration);
  }
}
