/**
 * @file Every reachable state of a view change, within bounds: the product's agreement at three voters, a network that may deliver any message
 * ever sent, in any order, any number of times or never, disks that take or refuse a write at any time, crashes with restart. Breadth
 * first, so that the story of a violation is a shortest one. After the explicit-state search of TLC (Lamport, "Specifying Systems", 2002).
 */
import { createHash } from "node:crypto";
import { holdsLayers, majorityOf, memberOf, type RingView } from "../../ring/core/view.ts";
import {
  freshNode,
  Interner,
  isSpent,
  stepNode,
  viewOf,
  type Envelope,
  type NodeInput,
  type NodeState,
  type World,
} from "./view-explorer-node.ts";
import { TupleSet } from "./view-explorer-tuples.ts";

export interface ExplorerBounds {
  readonly name: string;
  readonly view: RingView;
  /** View changes in a row. */
  readonly views: number;
  /** Rounds that all nodes together, and each node, may begin in one view. */
  readonly proposals: number;
  readonly proposalsEach: number;
  /** Of all nodes together: crashes with restart, and writes that fail. */
  readonly crashes: number;
  readonly failures: number;
  /** Who may crash, and whose writes take time and may fail. */
  readonly mortal: readonly number[];
  /** In so many views a version may be computed, told, committed and reported. */
  readonly steps: number;
  readonly statesMax: number;
}

export interface Explored {
  readonly name: string;
  readonly states: number;
  readonly transitions: number;
  /** No state within the bounds is left out. */
  readonly isComplete: boolean;
  /** States in which a view, and the last view, is decided. */
  readonly decided: readonly number[];
  /** What is wrong, and how it came to it. */
  readonly violation: { readonly what: string; readonly story: readonly string[] } | null;
}

const NODES = 3;

interface Successor {
  readonly next: number;
  /** Numbers of envelopes. */
  readonly sent: readonly number[];
  readonly violation: string | undefined;
}

export class Explorer {
  readonly #bounds: ExplorerBounds;
  readonly #keepsSpent: boolean;
  readonly #world: World;
  readonly #locals = new Interner<NodeState>();
  readonly #envelopes = new Interner<Envelope>();
  readonly #networks = new Interner<readonly number[]>((envelopes) => String.fromCharCode(...envelopes));
  readonly #inputs: NodeInput[] = [];
  readonly #inputIds = new Map<string, number>();
  readonly #steps = new Map<number, Successor>();
  readonly #additions = new Map<number, number>();
  readonly #visited = new TupleSet();
  /** Of each state: the one before, and which node took which input. */
  readonly #parents: number[] = [];
  readonly #causes: number[] = [];
  readonly #decided: number[];
  #transitions = 0;
  #violation: Explored["violation"] = null;

  /** @param options `keepsSpent`: messages that will never matter stay in the network, to show that they do not */
  constructor(bounds: ExplorerBounds, { keepsSpent = false } = {}) {
    this.#bounds = bounds;
    this.#keepsSpent = keepsSpent;
    this.#world = {
      views: new Interner(),
      evidences: new Interner(),
      mortal: bounds.mortal,
      proposalsEach: bounds.proposalsEach,
    };
    this.#decided = Array.from({ length: bounds.views }, () => 0);
  }

  run(): Explored {
    const first = this.#world.views.idOf(this.#bounds.view);
    const [a, b, c] = Array.from({ length: NODES }, (_, node) =>
      this.#locals.idOf(freshNode(this.#world, node, first, this.#bounds.views)),
    );
    this.#visit([a!, b!, c!], this.#networks.idOf([]), -1, -1);
    let index = 0;
    for (; index < this.#visited.size && this.#visited.size < this.#bounds.statesMax; index += 1) {
      this.#expand(index);
      if (this.#violation !== null) break;
    }
    const isComplete = this.#violation === null && index === this.#visited.size;
    return {
      ...{ name: this.#bounds.name, states: this.#visited.size, transitions: this.#transitions, isComplete },
      ...{ decided: this.#decided, violation: this.#violation },
    };
  }

  /** What the three nodes can be together, whatever is under way between them. */
  nodeTriples(): ReadonlySet<string> {
    const names = this.#locals.values.map((state) => createHash("md5").update(JSON.stringify(state)).digest("base64"));
    const triples = new Set<string>();
    for (let index = 0; index < this.#visited.size; index += 1) {
      const [a, b, c] = this.#visited.at(index);
      triples.add([a, b, c].map((id) => names[id]!).join());
    }
    return triples;
  }

  #expand(index: number): void {
    const [a, b, c, network] = this.#visited.at(index);
    const ids = [a, b, c];
    const states = ids.map((id) => this.#locals.values[id]!);
    for (const [node, state] of states.entries()) {
      for (const input of this.#enabled(state, states)) this.#take(index, ids, network, node, this.#inputOf(input));
    }
    for (const envelope of this.#networks.values[network]!) {
      const { to } = this.#envelopes.values[envelope]!;
      this.#take(index, ids, network, to, -1 - envelope);
      if (this.#violation !== null) return;
    }
  }

  #inputOf(input: NodeInput): number {
    const key = JSON.stringify(input);
    let id = this.#inputIds.get(key);
    if (id === undefined) {
      id = this.#inputs.push(input) - 1;
      this.#inputIds.set(key, id);
    }
    return id;
  }

  /** @param input of a list, or minus one minus the number of an envelope */
  #take(from: number, ids: readonly number[], network: number, node: number, input: number): void {
    const step = this.#step(ids[node]!, input);
    if (step.violation !== undefined) this.#fail(step.violation, from, node, input);
    if (step.next === ids[node]! && step.sent.length === 0) return;
    this.#transitions += 1;
    let after = network;
    for (const envelope of step.sent) after = this.#added(after, envelope);
    const next = ids.with(node, step.next);
    this.#visit(next, this.#withoutSpent(next, after), from, input * NODES + node);
  }

  /** Messages that will never again matter are left out, so that states which differ in them alone are one. */
  #withoutSpent(ids: readonly number[], network: number): number {
    const states = ids.map((id) => this.#locals.values[id]!);
    const immortal = states.filter((state) => !this.#mayCrash(state, states)).map(({ node }) => node);
    if (immortal.length === 0 || this.#keepsSpent) return network;
    const before = this.#networks.values[network]!;
    const after = before.filter((id) => {
      const envelope = this.#envelopes.values[id]!;
      const { to, from } = envelope;
      return !immortal.includes(to) || !isSpent(this.#world, states[to]!, envelope, states[from]!);
    });
    return after.length === before.length ? network : this.#networks.idOf(after);
  }

  #mayCrash({ node }: NodeState, states: readonly NodeState[]): boolean {
    const { crashes, mortal } = this.#bounds;
    return mortal.includes(node) && states.reduce((sum, state) => sum + state.crashes, 0) < crashes;
  }

  #step(local: number, input: number): Successor {
    const key = local * 65_536 + input + 32_768;
    const known = this.#steps.get(key);
    if (known !== undefined) return known;
    const taken: NodeInput =
      input >= 0 ? this.#inputs[input]! : { kind: "deliver", envelope: this.#envelopes.values[-1 - input]! };
    const { state, sent, violation } = stepNode(this.#world, this.#locals.values[local]!, taken);
    const step = { next: this.#locals.idOf(state), sent: sent.map((each) => this.#envelopes.idOf(each)), violation };
    this.#steps.set(key, step);
    return step;
  }

  #added(network: number, envelope: number): number {
    const key = network * 32_768 + envelope;
    const known = this.#additions.get(key);
    if (known !== undefined) return known;
    const before = this.#networks.values[network]!;
    const after = before.includes(envelope)
      ? network
      : this.#networks.idOf([...before, envelope].toSorted((x, y) => x - y));
    this.#additions.set(key, after);
    return after;
  }

  #visit(ids: readonly number[], network: number, parent: number, cause: number): void {
    const [a, b, c] = ids as readonly [number, number, number];
    if (!this.#visited.add(a, b, c, network)) return;
    this.#parents.push(parent);
    this.#causes.push(cause);
    const states = ids.map((id) => this.#locals.values[id]!);
    const wrong = this.#check(states);
    if (wrong !== undefined && this.#violation === null)
      this.#violation = { what: wrong, story: this.#story(this.#parents.length - 1) };
  }

  /** What the network does not bring. Bounds of the search are here. */
  #enabled(state: NodeState, states: readonly NodeState[]): readonly NodeInput[] {
    const { bounds, view, index } = { bounds: this.#bounds, view: this.#viewOf(state), index: this.#indexOf(state) };
    const inputs: NodeInput[] = [];
    if (this.#mayCrash(state, states)) {
      inputs.push({ kind: "restart", isHeadDurable: false });
      if (state.writes.length > 0) inputs.push({ kind: "restart", isHeadDurable: true });
    }
    if (state.writes.length > 0) inputs.push({ kind: "persisted" });
    if (state.writes.length > 0 && states.reduce((sum, { failures }) => sum + failures, 0) < bounds.failures)
      inputs.push({ kind: "notPersisted" });
    if (index >= bounds.views) return inputs;
    const rounds = states.reduce((sum, { history }) => sum + history[index]!.proposals, 0);
    const own = state.history[index]!;
    if (rounds < bounds.proposals && own.proposals < bounds.proposalsEach && view.voters.includes(state.node))
      inputs.push({ kind: "propose" });
    if (state.agreement.round.kind === "preparing" && state.agreement.round.promises.length >= majorityOf(view.voters))
      inputs.push({ kind: "choose" });
    if (state.phase === "installing") inputs.push({ kind: "install" });
    if (!holdsLayers(view, state.node)) return inputs;
    if (state.phase !== "running" || index >= bounds.steps) return inputs;
    const areInstalled = states.every(
      ({ node, history }) => memberOf(view, node) === undefined || history[index]!.isInstalled,
    );
    if (state.version === view.restoreStep) return areInstalled ? [...inputs, { kind: "advance" }] : inputs;
    if (state.isSealed) return inputs;
    if (!own.hasSaid) inputs.push({ kind: "say" });
    else if (this.#isCommitted(states, view, index) && state.reported <= view.restoreStep)
      inputs.push({ kind: "report" });
    return inputs;
  }

  #viewOf = (state: NodeState): RingView => viewOf(this.#world, state.view);
  #indexOf = (state: NodeState): number => this.#viewOf(state).view - this.#bounds.view.view;

  /** Everybody has told that it holds the version after the restored one. */
  #isCommitted(states: readonly NodeState[], view: RingView, index: number): boolean {
    return view.members.every(({ node }) => !holdsLayers(view, node) || states[node]!.history[index]!.hasSaid);
  }

  /** V1, V3, V4. */
  #check(states: readonly NodeState[]): string | undefined {
    const views = [this.#bounds.view];
    for (let index = 0; index < this.#bounds.views; index += 1) {
      const values = [...new Set(states.map(({ history }) => history[index]!.decided).filter((value) => value >= 0))];
      if (values.length > 1) return `V1: two values are decided for view ${this.#bounds.view.view + index + 1}`;
      if (values.length === 0) break;
      if (!this.#isAccepted(states, views[index]!, index, values[0]!))
        return "V9: what is decided is not durable at a majority";
      this.#decided[index]! += 1;
      views.push(viewOf(this.#world, values[0]!));
    }
    const restored = views.slice(1).map(({ restoreStep }) => restoreStep);
    for (const [index, view] of views.entries()) {
      const version = view.restoreStep + 1;
      if (!restored.slice(index).some((step) => step < version) || !this.#isCommitted(states, view, index)) continue;
      // Where all copies are lost, and nobody was told, nothing was.
      const isKnown = view.members.some(({ node }) => holdsLayers(view, node) && states[node]!.crashes === 0);
      const isTold = states.some(({ reported }) => reported >= version);
      if (isKnown || isTold)
        return `V3, V4: version ${version} is committed, a later view restores ${restored.join(", ")}`;
    }
    return undefined;
  }

  /** By a majority of voters, durably, as far as those show who have not yet heard of the decision. */
  #isAccepted(states: readonly NodeState[], { voters }: RingView, index: number, value: number): boolean {
    const others = voters.filter((voter) => {
      const { history, durable, view } = states[voter]!;
      if (history[index]!.decided >= 0) return false;
      return durable.view !== view || durable.vote?.accepted?.value !== value;
    });
    return voters.length - others.length >= majorityOf(voters);
  }

  #fail(what: string, from: number, node: number, input: number): void {
    this.#violation ??= { what, story: [...this.#story(from), this.#told(input * NODES + node)] };
  }

  #story(index: number): readonly string[] {
    const story: string[] = [];
    for (let at = index; this.#parents[at]! >= 0; at = this.#parents[at]!) story.push(this.#told(this.#causes[at]!));
    return story.toReversed().map((line, step) => `${step + 1}. ${line}`);
  }

  #told(cause: number): string {
    const node = ((cause % NODES) + NODES) % NODES;
    const input = (cause - node) / NODES;
    if (input < 0) {
      const { from, view, message } = this.#envelopes.values[-1 - input]!;
      return `node ${node} receives from ${from}, view ${view}: ${JSON.stringify(message)}`;
    }
    const { kind, ...rest } = this.#inputs[input]!;
    return `node ${node}: ${kind} ${Object.values(rest).join(" ")}`.trim();
  }
}
