/**
 * @file Rings in one process in which streams break, or never open, between nodes that live: what was on its way is lost, so another view comes;
 * and nothing of the old one stays behind. The bits are those of one process.
 */
import { afterAll, afterEach, describe, expect, test, vi } from "vitest";
import { StallClock } from "../../ring/core/stall.ts";
import { EdgeInbox } from "../../ring/runtime/edges.ts";
import { Follower } from "../../ring/runtime/replicas.ts";
import { Session } from "../../ring/runtime/session.ts";
import type { Settings } from "../../src/config/settings.ts";
import { Link } from "../../src/net/link.ts";
import type { Hello } from "../../src/net/hello.ts";
import { until } from "../helpers/cli.ts";
import { bits, runSerial, Scratch, tinySettings } from "../helpers/memory-ring.ts";
import { MortalRing } from "../helpers/mortal-ring.ts";

const scratch = new Scratch();
afterAll(() => scratch.remove());
afterEach(() => void vi.restoreAllMocks());

const LIMIT_MS = 90_000;
/** Views change for no other reason. */
const DEEP = { model: "mlp:6-9-5-7-8-6-9-5-4", steps: 100_000, balance: "off" };

async function expectUndisturbed(ring: MortalRing, settings: Settings): Promise<void> {
  const outcome = await ring.outcome();
  const serial = await runSerial({ ...settings, steps: outcome.losses.length }, scratch.folder());
  expect(bits(outcome)).toEqual(bits(serial));
}

interface Dialled {
  readonly hello: Hello;
  readonly link: Link;
  isOpen: boolean;
}

/** Every link that somebody dials from now on. */
function watchLinks(): readonly Dialled[] {
  const open: typeof Link.open = Reflect.get(Link, "open");
  const all: Dialled[] = [];
  vi.spyOn(Link, "open").mockImplementation(async (stream, hello, ...rest) => {
    const opened = await open.call(Link, stream, hello, ...rest);
    const dialled = { hello, link: opened.link, isOpen: true };
    all.push(dialled);
    void opened.link.ended.then(() => (dialled.isOpen = false));
    return opened;
  });
  return all;
}

describe("a stream of copies breaks between two that live", () => {
  test(
    "and that are no neighbours: its ends ask for another view",
    async () => {
      // Only what the ends of the stream say of it may help.
      vi.spyOn(StallClock.prototype, "stalledMs").mockReturnValue(undefined);
      const links = watchLinks();
      const settings = tinySettings({ ...DEEP, nodes: 5, replicas: 2 });
      await using ring = await MortalRing.form(settings);
      await ring.reached(4);
      const stream = links.find(({ hello, link }) => hello["owner"] === 0 && link.remotePeer === "node-2")!;
      expect(stream).toMatchObject({ hello: { kind: "follow", view: 0 }, isOpen: true });
      stream.link.abort("a test");
      await ring.until((_, { view }) => view === 1, "another view");
      ring.requestStop();
      await expectUndisturbed(ring, settings);
    },
    LIMIT_MS,
  );

  test(
    "with the last step's gradient, when all have computed all: the run ends all the same",
    async () => {
      // In place of five seconds. No end of the stream sees that it is broken.
      const stalledMs = Reflect.get(StallClock.prototype, "stalledMs");
      vi.spyOn(StallClock.prototype, "stalledMs").mockImplementation(function (this: StallClock, nowMs, stepMs) {
        return stalledMs.call(this, nowMs + 3_500, stepMs);
      });
      const settings = tinySettings({ ...DEEP, nodes: 3, steps: 12 });
      const send = Reflect.get(Follower.prototype, "send");
      let lost = 0;
      vi.spyOn(Follower.prototype, "send").mockImplementation(async function (this: Follower, step, ...rest) {
        if (step === settings.steps - 1 && lost === 0) lost += 1;
        else await send.call(this, step, ...rest);
      });
      await using ring = await MortalRing.form(settings);
      await expectUndisturbed(ring, settings);
      expect(lost).toBe(1);
    },
    LIMIT_MS,
  );
});

/** All owners of a view are ready, and `strike` comes before the first of them dials. */
function beforeEdges(of: number, strike: () => void): void {
  const start = Reflect.get(Session.prototype, "start");
  const ready = Promise.withResolvers<void>();
  let waiting = 0;
  vi.spyOn(Session.prototype, "start").mockImplementation(async function (this: Session) {
    if (this.view.view === of) {
      waiting += 1;
      if (waiting === this.view.owners.length) {
        strike();
        ready.resolve();
      }
      await ready.promise;
    }
    await start.call(this);
  });
}

/** Of the edges of a view that nodes still wait for. */
function watchAwaited(of: number): { readonly count: number } {
  const install = Reflect.get(EdgeInbox.prototype, "install");
  const awaited = { count: 0 };
  vi.spyOn(EdgeInbox.prototype, "install").mockImplementation(function (this: EdgeInbox, init, ...rest) {
    const link = install.call(this, init, ...rest);
    if (init.view.view !== of) return link;
    awaited.count += 1;
    const settled = (): void => void (awaited.count -= 1);
    link.then(settled, settled);
    return link;
  });
  return awaited;
}

test(
  "a node dies before the edges of its view are open: what the others have opened to each other ends with that view",
  async () => {
    const links = watchLinks();
    const awaited = watchAwaited(1);
    const settings = tinySettings({ ...DEEP, nodes: 4, replicas: 2 });
    await using ring = await MortalRing.form(settings);
    beforeEdges(1, () => ring.kill(2));
    await ring.reached(4);
    ring.kill(3);
    await ring.trainsWith(2);
    const edges = links.filter(({ hello }) => hello["kind"] === "edge" && hello["view"] === 1);
    expect(edges.length, "those between the two that live").toBeGreaterThan(0);
    await until(() => edges.every(({ isOpen }) => !isOpen) && awaited.count === 0, "the end of all edges", 2_000);
    ring.requestStop();
    await expectUndisturbed(ring, settings);
  },
  LIMIT_MS,
);
