/** @file The edges of a view that ends before all of them are open: what is open ends with it, and what opens later. */
import { setImmediate as turn } from "node:timers/promises";
import { afterEach, describe, expect, test } from "vitest";
import type { RingView } from "../../ring/core/view.ts";
import { DATA_PROTOCOL, EdgeInbox, Edges, VIEW_OVER } from "../../ring/runtime/edges.ts";
import { Link } from "../../src/net/link.ts";
import { MemoryNetwork } from "../../src/net/memory.ts";
import type { Transport } from "../../src/net/transport.ts";
import { soon } from "../helpers/memory-ring.ts";
import { madeMember, madeView } from "../helpers/view-explorer-views.ts";

const JOB = "00c0ffee00c0ffee";
const NODES = [0, 1, 2];
const view: RingView = madeView(3, {
  members: NODES.map((node) => ({ ...madeMember(node), addresses: [`/memory/peer-${node}/p2p/peer-${node}`] })),
});
const taking = { destination: () => new Uint8Array(0), handle: () => {} };

let network = new MemoryNetwork();
const transports: Transport[] = [];
afterEach(async () => {
  await Promise.all(transports.splice(0).map((transport) => transport.close()));
  network = new MemoryNetwork();
});

function joined(node: number): Transport {
  const transport = network.join(`peer-${node}`);
  transports.push(transport);
  return transport;
}

/** An owner that opens its edges. `told`: how each link of it ended. */
async function owner(node: number) {
  const [transport, inbox, over] = [joined(node), new EdgeInbox(), new AbortController()];
  await inbox.listen(transport);
  const told: string[] = [];
  const open = (): Promise<Edges> => {
    const receivers = { forward: taking, backward: taking };
    const onEnd = (neighbour: number, end: { readonly kind: string }, role: string): void => {
      told.push(`${role} ${neighbour} ${end.kind}`);
    };
    return Edges.open({ job: JOB, view, node, transport, receivers, onEnd, signal: over.signal }, inbox);
  };
  return { transport, over, told, open };
}

const ends = (opening: Promise<Edges>): Promise<string> =>
  soon(
    opening.then(
      () => "open",
      (error: Error) => error.message,
    ),
    "the end of the opening",
  );

/** What was said has arrived, and what has ended is known. */
async function settled(): Promise<void> {
  for (let turns = 0; turns < 5; turns += 1) await turn();
}

describe("of three owners one is dead:", () => {
  test("what the others have opened to each other ends when the view ends for one of them", async () => {
    const [first, second] = [await owner(0), await owner(1)];
    const both = await Promise.all([first, second].map(({ open }) => ends(open())));
    for (const message of both) expect(message).toContain("peer-2");
    await settled();
    expect([...first.told, ...second.told], "nobody blames the living").toEqual([]);
    first.over.abort();
    await settled();
    expect(first.told.toSorted()).toEqual(["backward 1 refused", "outgoing 1 refused"]);
    expect(second.told.toSorted()).toEqual(["forward 0 refused", "outgoing 0 refused"]);
  });

  test("one that comes when the view is over ends at once", async () => {
    const first = await owner(0);
    const late = joined(1);
    const message = await ends(first.open());
    expect(message).toContain("peer-");
    first.over.abort();
    const stream = await late.dial(first.transport.addresses, DATA_PROTOCOL);
    const hello = { kind: "edge", job: JOB, view: view.view, direction: "backward" };
    const { link } = await Link.open(stream, hello, taking);
    expect(await soon(link.ended, "the end of the link")).toMatchObject({
      kind: "refused",
      by: "peer",
      reason: VIEW_OVER,
    });
  });
});

test("edges that nobody has answered yet are not waited for when the view ends", async () => {
  const first = await owner(0);
  // They listen, and do not know the view.
  const inboxes = [new EdgeInbox(), new EdgeInbox()];
  for (const [index, inbox] of inboxes.entries()) await inbox.listen(joined(index + 1));
  const opening = ends(first.open());
  await settled();
  first.over.abort();
  expect(await opening).not.toBe("open");
  expect(first.told).toEqual([]);
  for (const inbox of inboxes) inbox.advance(view.view + 1);
});

test("edges that are all open end with the view", async () => {
  const owners = await Promise.all(NODES.map(owner));
  await soon(Promise.all(owners.map(({ open }) => open())), "the edges");
  owners[1]!.over.abort();
  await settled();
  const told = owners.map(({ told: each }) => each.toSorted());
  expect(told).toEqual([
    ["backward 1 refused", "outgoing 1 refused"],
    ["backward 2 refused", "forward 0 refused", "outgoing 0 refused", "outgoing 2 refused"],
    ["forward 1 refused", "outgoing 1 refused"],
  ]);
});
