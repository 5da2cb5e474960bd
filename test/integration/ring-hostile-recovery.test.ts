/**
 * @file Hostile and broken frames on every protocol while a ring with replicas trains: strangers with transports of their own, and members
 * that lie. What is wrong is closed with a reason, memory is bounded, and the ring ends with the bits of one process.
 */
import { expect, test } from "vitest";
import { joinRing, type Ring, type RingView } from "../../ring/index.ts";
import { CONTROL_PROTOCOL } from "../../ring/runtime/control-inbox.ts";
import { DATA_PROTOCOL } from "../../ring/runtime/edges.ts";
import { REPLICA_PROTOCOL } from "../../ring/runtime/replicas.ts";
import type { Hello } from "../../src/net/hello.ts";
import { Link } from "../../src/net/link.ts";
import { MemoryNetwork } from "../../src/net/memory.ts";
import type { StreamHandler, Transport } from "../../src/net/transport.ts";
import { DataType, FrameKind } from "../../src/wire/header.ts";
import { until } from "../helpers/cli.ts";
import { floats, JOB, JOB_TEXT, Listener, say, send } from "../helpers/duel.ts";
import { heapBytes } from "../helpers/heap.ts";
import { attack } from "../helpers/hostile-protocol.ts";
import * as memory from "../helpers/memory-ring.ts";

const { soon } = memory;
const LIMIT_MS = 60_000;
const MIB = 1024 * 1024;
/** The attacks come from `attacker`: a member in some rings, a stranger in others. */
const [MEMBERS, STRANGERS] = [
  ["node-0", "node-1", "attacker"],
  ["node-0", "node-1", "node-2"],
];
/** It is told to stop when it was attacked enough. */
const settings = memory.tinySettings({ nodes: 3, steps: 100_000, replicas: 1, balance: "off" });
const layers = settings.model.split("-").length - 1;

const hellos: Readonly<Record<string, Hello>> = {
  [CONTROL_PROTOCOL]: { kind: "member", job: JOB_TEXT, incarnation: "ab", boot: 1, invite: null },
  [DATA_PROTOCOL]: { kind: "edge", job: JOB_TEXT, view: 0, direction: "forward" },
  [REPLICA_PROTOCOL]: { kind: "follow", job: JOB_TEXT, view: 0, owner: 2 },
};

/** A ring that trains until the test is over, with what it was told by then. */
async function besiege(names: readonly string[]) {
  const network = new MemoryNetwork();
  const scratch = new memory.Scratch();
  const folder = scratch.folder();
  const transports = names.map((name) => network.join(name));
  const views: RingView[] = [];
  const progress = { steps: 0 };
  /** What the first node serves. */
  const handlers = new Map<string, StreamHandler>();
  const { peerId, addresses } = transports[0]!;
  const first: Transport = {
    ...{ peerId, addresses, close: () => transports[0]!.close() },
    dial: (...given) => transports[0]!.dial(...given),
    disconnect: (other) => transports[0]!.disconnect(other),
    handle: (protocol, handler) => {
      handlers.set(protocol, handler);
      return transports[0]!.handle(protocol, handler);
    },
  };
  const founder = { kind: "founder", job: memory.jobOf(settings), data: memory.dataOf(settings) } as const;
  const states = await Promise.all(names.map(() => scratch.state()));
  const forming = transports.map((transport, node) => {
    const role = node === 0 ? founder : memory.joinerOf(addresses[0]!);
    const told = { wish: node === 0 ? null : node, onView: (view: RingView) => void views.push(view) };
    const onCommitted = (step: number): void => void (progress.steps = step + 1);
    const init = memory.ringInit(node === 0 ? first : transport, states[node]!, role, { ...told, onCommitted });
    return joinRing(init);
  });
  const rings = await soon(Promise.all(forming), "the formation");
  const runs = Promise.all(rings.map((ring) => ring.train(folder)));
  runs.catch(() => {});
  await until(() => progress.steps > 2, "a ring that trains");
  return { network, transports, rings, handlers, views, runs, progress, scratch, folder };
}
type Siege = Awaited<ReturnType<typeof besiege>>;

/** It goes on, and in the end has the bits of one process after as many steps. */
async function expectUnharmed(siege: Siege): Promise<void> {
  const { rings, runs, progress, folder, scratch, transports } = siege;
  const before = progress.steps;
  await until(() => progress.steps > before + 2, "progress after the attack");
  rings[0]!.requestStop();
  const [outcome] = await soon(runs, "the end");
  const { summary, completedSteps } = outcome!;
  const serial = await memory.runSerial({ ...settings, steps: completedSteps }, scratch.folder());
  const ring = { summary: summary!, losses: memory.lossesOf(folder) };
  expect(memory.bits(ring)).toEqual(memory.bits(serial));
  await Promise.all(transports.map((transport) => transport.close()));
  scratch.remove();
}

/** Nobody saw another view than the first. */
function expectFirstView({ rings, views }: Siege): void {
  expect([...rings.map((ring: Ring) => ring.view), ...views].map(({ view }) => view)).toEqual(
    [...rings, ...views].map(() => 0),
  );
}

async function open(
  from: Transport,
  to: Transport,
  protocol: string,
  changes: Hello = {},
  listener = new Listener(),
): Promise<Link> {
  const stream = await soon(from.dial(to.addresses, protocol), "a dial");
  const { kind } = changes;
  const hello = kind === undefined ? { ...hellos[protocol], ...changes } : changes;
  return (await soon(Link.open(stream, hello, listener), "a hello")).link;
}

/** The other side has ended the link, and said why. */
async function expectClosed(link: Link, reason: string, what: string): Promise<void> {
  const end = await soon(link.ended, `the end of ${what}`);
  expect(end, what).toMatchObject({ kind: "refused", by: "peer", reason: expect.stringContaining(reason) });
}

const fetch = (changes: Hello = {}): Hello => ({ kind: "fetch", job: JOB_TEXT, version: 0, layers: [0], ...changes });
const membership = (message: unknown, view = 0) => ({ say: "membership", view, message });
const candidateOf = ({ view }: Ring, node: number) => {
  const { node: _, ...candidate } = view.members[node]!;
  return candidate;
};
/** A view in which nobody else is. */
const takenOver = (view: RingView, candidate: object): unknown => ({
  ...{ ...view, view: 9, members: [{ ...candidate, node: 7 }], departed: [], voters: [7], owners: [7] },
  ...{ cut: [[0, layers]], replicas: 0 },
});

test("hellos that are none of the ring's are refused with a reason", { timeout: LIMIT_MS }, async () => {
  const siege = await besiege(STRANGERS);
  const stranger = siege.network.join("stranger");
  const [founder] = siege.transports;
  const cases: readonly [string, Hello, string][] = [
    [CONTROL_PROTOCOL, { job: "beef" }, "job beef is not this ring's job"],
    [CONTROL_PROTOCOL, { boot: -1 }, "a message is malformed: boot"],
    [CONTROL_PROTOCOL, { kind: "captain" }, "a message is malformed: kind"],
    [DATA_PROTOCOL, { job: "beef" }, "job beef is not this ring's job"],
    [DATA_PROTOCOL, { view: 2 ** 31 }, `view ${2 ** 31} is not this ring's: it is at view 0`],
    [DATA_PROTOCOL, {}, "peer stranger is not the neighbour"],
    [REPLICA_PROTOCOL, {}, "no copies of node 2 in view 0 are here"],
    [REPLICA_PROTOCOL, { job: "beef" }, "job beef is not this ring's job"],
    [REPLICA_PROTOCOL, { kind: "steal" }, "a message is malformed: kind"],
    [REPLICA_PROTOCOL, fetch({ layers: [] }), "a message is malformed: layers"],
    [REPLICA_PROTOCOL, fetch({ layers: Array.from({ length: 1001 }, () => 0) }), "a message is malformed: layers"],
    [REPLICA_PROTOCOL, fetch({ layers: [-1] }), "a message is malformed: layers.0"],
    [REPLICA_PROTOCOL, fetch({ version: 0.5 }), "a message is malformed: version"],
  ];
  for (const [protocol, changes, reason] of cases) {
    await expect(open(stranger, founder!, protocol, changes), JSON.stringify(changes)).rejects.toThrow(reason);
  }
  expectFirstView(siege);
  await expectUnharmed(siege);
});

test("what strangers say of views and of the run is heard by nobody", { timeout: LIMIT_MS }, async () => {
  const siege = await besiege(STRANGERS);
  const stranger = siege.network.join("stranger");
  const [first] = siege.rings;
  const self = { ...candidateOf(first!, 1), peerId: "stranger", addresses: stranger.addresses, boot: 1 };
  const value = takenOver(first!.view, self);
  const ballot = 2 ** 30;
  const words = [
    ...[membership({ kind: "decided", value }), membership({ kind: "decided", value }, 9)],
    ...[membership({ kind: "prepare", ballot }), membership({ kind: "accept", ballot, value })],
    ...[membership({ kind: "accepted", ballot }), membership({ kind: "refused", ballot, promised: ballot })],
    ...[
      membership({ kind: "ready", isAnswer: false, known: [] }),
      membership({ kind: "leave" }),
      membership({ kind: "behind" }),
    ],
    ...[
      { say: "accuse", node: 1 },
      { say: "probe", node: 1 },
      { say: "probed", node: 1, alive: false },
    ],
    ...[{ say: "confirm", view: 0, sleep: 1 }, { say: "confirmed", view: 0, sleep: 1 }, { say: "alive" }],
    { say: "stop" },
    ...[
      { say: "losses", from: 0, losses: [1, 2, 3] },
      { say: "askLosses", from: 0 },
      { say: "complete", view: 0 },
    ],
    { say: "announce", view: 0, body: { kind: "failure", failure: { kind: "lost", node: 1, step: 0 } } },
    { say: "announce", view: 0, body: { kind: "evaluated", step: 1, correct: 0, lossSum: 0 } },
  ];
  const links = await Promise.all(siege.transports.map((to) => open(stranger, to, CONTROL_PROTOCOL)));
  for (const link of links) for (const word of words) say(link, word);
  // Who has read them all says goodbye: nothing of it was an offence.
  for (const link of links) expect(await link.close()).toEqual({ kind: "goodbye" });
  expectFirstView(siege);
  await expectUnharmed(siege);
});

test(
  "words that no node says end the stream with a reason, a stranger's and a member's",
  { timeout: LIMIT_MS },
  async () => {
    const siege = await besiege(MEMBERS);
    const [founder, , attacker] = siege.transports;
    const [first, , liar] = siege.rings;
    const join = (changes: object) =>
      membership({ kind: "join", candidate: { ...candidateOf(first!, 1), ...changes }, heardBy: [] });
    const cases: readonly [string, (link: Link) => void, string][] = [
      ["no JSON", (link) => send(link, { kind: FrameKind.control }, Buffer.from("{")), "a message is not JSON"],
      ["an unknown word", (link) => say(link, { say: "jump" }), "a message is malformed: say"],
      ["a view of nothing", (link) => say(link, membership({ kind: "decided", value: {} })), "a message is malformed"],
      ["a token", (link) => send(link, { kind: FrameKind.token }, Buffer.from("{}")), "has no meaning on a control"],
      ["a restarted member", (link) => say(link, join({ boot: 99 })), "wants a place for another node than itself"],
      ["a new node", (link) => say(link, join({ peerId: "ghost" })), "wants a place for another node than itself"],
    ];
    for (const from of [siege.network.join("stranger"), attacker!]) {
      const { boot, incarnation } = liar!.view.members[2]!;
      for (const [what, lie, reason] of cases) {
        const link = await open(from, founder!, CONTROL_PROTOCOL, from === attacker ? { boot, incarnation } : {});
        lie(link);
        await expectClosed(link, reason, `${what} of ${from.peerId}`);
      }
    }
    expectFirstView(siege);
    await expectUnharmed(siege);
  },
);

test("a member's words about views and nodes that there are not change nothing", { timeout: LIMIT_MS }, async () => {
  const siege = await besiege(MEMBERS);
  const [founder, , attacker] = siege.transports;
  const { boot, incarnation } = siege.rings[2]!.view.members[2]!;
  const listener = new Listener();
  const link = await open(attacker!, founder!, CONTROL_PROTOCOL, { boot, incarnation }, listener);
  const behind = listener.word(({ message }) => (message as { kind?: string } | undefined)?.kind === "behind");
  const confirmed = listener.word(({ say: word, sleep }) => word === "confirmed" && sleep === 7);
  const words = [
    ...[
      membership({ kind: "ready", isAnswer: false, known: [] }, 9),
      membership({ kind: "prepare", ballot: 2 ** 30 }, 9),
    ],
    ...[
      { say: "probe", node: 999 },
      { say: "probed", node: 999, alive: false },
      { say: "accuse", node: 999 },
    ],
    ...[
      { say: "accuse", node: 1 },
      { say: "accuse", node: 0 },
      { say: "probed", node: 1, alive: false },
    ],
    ...[
      { say: "complete", view: 9 },
      { say: "askLosses", from: 2 ** 31 },
      { say: "confirm", view: 9, sleep: 1 },
      { say: "confirmed", view: 0, sleep: 7 },
    ],
    { say: "losses", from: 2 ** 31, losses: [1] },
    { say: "announce", view: 9, body: { kind: "evaluated", step: 1, correct: 0, lossSum: 0 } },
  ];
  for (const word of words) say(link, word);
  await behind;
  say(link, { say: "confirm", view: 0, sleep: 7 });
  expect(await confirmed, "for the view that is, and the sleep that was named").toMatchObject({ view: 0 });
  expect(await link.close()).toEqual({ kind: "goodbye" });
  expectFirstView(siege);
  await expectUnharmed(siege);
});

test("a fetch gets what there is, and nothing else can be said on its stream", { timeout: LIMIT_MS }, async () => {
  const siege = await besiege(STRANGERS);
  const stranger = siege.network.join("stranger");
  const [founder] = siege.transports;
  // Out of range, and of a version that is long gone or was never held.
  const fetched = [{ layers: [layers, 2 ** 31] }, { version: 0 }, { layers: [0, 0, 0, 0] }].map(async (changes) => {
    const listener = new Listener();
    const link = await open(stranger, founder!, REPLICA_PROTOCOL, fetch(changes), listener);
    await listener.first(FrameKind.replicaDone);
    expect(await link.close()).toEqual({ kind: "goodbye" });
  });
  await Promise.all(fetched);
  const link = await open(stranger, founder!, REPLICA_PROTOCOL, fetch({ version: 2 ** 31 }));
  send(link, { kind: FrameKind.replica, dtype: DataType.float32, shape: [1] }, floats(1));
  await expectClosed(link, "kind 23 does not come from a node that fetches", "a gradient");
  expectFirstView(siege);
  await expectUnharmed(siege);
});

test("an owner that lies to a copy is refused, and the ring goes on", { timeout: LIMIT_MS }, async () => {
  const siege = await besiege(MEMBERS);
  const [holder, , attacker] = siege.transports;
  const late = 2 ** 31;
  const cases: readonly [string, (link: Link) => void, string][] = [
    ["a part of a step to come", (link) => part(link, { step: late }), `of step ${late} is not due`],
    ["a part of a layer that is not copied here", (link) => part(link, { microBatch: 77 }), "is not due"],
    ["a part of another job", (link) => part(link, { job: 1n }), "a frame of job 1, view 0"],
    ["a part of another view", (link) => part(link, { view: 7 }), "view 7 on a stream of copies"],
    ["a layer that nobody asked for", (link) => part(link, { kind: FrameKind.parameters }), "is not due"],
    ["the end of nothing", (link) => send(link, { kind: FrameKind.replicaDone, step: late }), "is not due"],
    ["a frontier", (link) => send(link, { kind: FrameKind.frontier, step: late }), `frontier ${late} is not due`],
    ["a word", (link) => send(link, { kind: FrameKind.control }, Buffer.from("{}")), "is not due"],
    ["a word of nothing", (link) => send(link, { kind: FrameKind.control }), "is not due"],
  ];
  for (const [what, lie, reason] of cases) {
    const link = await open(attacker!, holder!, REPLICA_PROTOCOL);
    lie(link);
    await expectClosed(link, reason, what);
  }
  // The owner's own stream has ended with that, and both ends know it: another view begins.
  await expectUnharmed(siege);
  expect(siege.rings[0]!.view.view).toBe(1);
});

function part(link: Link, changes: Partial<Parameters<typeof send>[1]>): void {
  send(link, { kind: FrameKind.replica, dtype: DataType.float32, shape: [1], value: 0, ...changes }, floats(1));
}

test("thousands of hellos and of strangers: streams and memory are bounded", { timeout: LIMIT_MS }, async () => {
  const siege = await besiege(STRANGERS);
  const [founder] = siege.transports;
  const startBytes = heapBytes();
  const insistent = siege.network.join("insistent");
  const links: Link[] = [];
  for (let count = 0; count < 2_000; count += 1) links.push(await open(insistent, founder!, CONTROL_PROTOCOL));
  await expectClosed(links[0]!, "newer streams took its place", "the first stream");
  const crowd = Array.from({ length: 200 }, (_, index) => siege.network.join(`stranger-${index}`));
  const refusals: unknown[] = [];
  for (const one of crowd) {
    const link = await open(one, founder!, CONTROL_PROTOCOL);
    void link.ended.then((end) => end.kind === "refused" && refusals.push(end.reason));
  }
  await until(() => refusals.length >= crowd.length - 32, "the refusal of most");
  expect(new Set(refusals)).toEqual(new Set(["too many others wait to join"]));
  await Promise.all([insistent, ...crowd].map((one) => one.close()));
  const later = await open(siege.network.join("later"), founder!, CONTROL_PROTOCOL);
  expect(await later.close()).toEqual({ kind: "goodbye" });
  links.length = 0;
  expect(heapBytes() - startBytes).toBeLessThan(8 * MIB);
  expectFirstView(siege);
  await expectUnharmed(siege);
});

test.each(
  [CONTROL_PROTOCOL, DATA_PROTOCOL, REPLICA_PROTOCOL].flatMap((protocol) =>
    [STRANGERS, MEMBERS].flatMap((names) => [1, Date.now() % 2 ** 31].map((seed) => [protocol, names, seed] as const)),
  ),
)("%s is attacked in a ring of %j, seed %i", { timeout: LIMIT_MS }, async (protocol, names, seed) => {
  const siege = await besiege(names);
  const { boot } = siege.rings[2]!.view.members[2]!;
  const hello = { ...hellos[protocol], ...(protocol === CONTROL_PROTOCOL ? { boot } : {}) };
  const text = (word: unknown): Uint8Array => Buffer.from(JSON.stringify(word));
  const control = [
    { say: "alive" },
    { say: "probe", node: 1 },
    membership({ kind: "ready", isAnswer: false, known: [] }),
  ];
  const frames = [
    ...control.map((word) => ({ fields: { kind: FrameKind.control, job: JOB }, payload: text(word) })),
    ...[FrameKind.replica, FrameKind.activation, FrameKind.gradient, FrameKind.parameters].map((kind) => {
      return { fields: { kind, job: JOB, dtype: DataType.float32, shape: [4] }, payload: floats(4) };
    }),
    { fields: { kind: FrameKind.frontier, job: JOB, step: 9 }, payload: new Uint8Array(0) },
    { fields: { kind: FrameKind.replicaDone, job: JOB, step: 9 }, payload: new Uint8Array(0) },
  ];
  const damage = await attack({ seed, rounds: 8, serve: siege.handlers.get(protocol)!, hello, frames });
  expect(damage.uncaught).toEqual([]);
  // What a link takes ahead, and the memory of views that a liar has ended.
  expect(damage.peakBytes).toBeLessThan(64 * MIB);
  if (names === STRANGERS) expectFirstView(siege);
  await expectUnharmed(siege);
});
