/**
 * @file Rings in one process in which a view cannot begin as it was decided: a member lives, but its install stands still, or two members do not
 * reach each other. The ring goes on all the same, with the same bits.
 */
import { afterAll, afterEach, expect, test, vi } from "vitest";
import { InstallClock, STILL_MS } from "../../ring/core/readiness.ts";
import { History } from "../../ring/runtime/history.ts";
import { bits, runSerial, Scratch, tinySettings } from "../helpers/memory-ring.ts";
import { MortalRing } from "../helpers/mortal-ring.ts";

const scratch = new Scratch();
afterAll(() => scratch.remove());
afterEach(() => void vi.restoreAllMocks());

const LIMIT_MS = 90_000;
const DEEP = { model: "mlp:6-9-5-7-8-6-9-5-4", steps: 100_000 };
/** In place of half a minute. */
const SHORT_STILL_MS = 3_000;

function shortenPatience(): void {
  const stillMs = Reflect.get(InstallClock.prototype, "stillMs");
  vi.spyOn(InstallClock.prototype, "stillMs").mockImplementation(function (this: InstallClock, nowMs) {
    return stillMs.call(this, nowMs + STILL_MS - SHORT_STILL_MS);
  });
}

async function expectUndisturbed(ring: MortalRing): Promise<void> {
  ring.requestStop();
  const outcome = await ring.outcome();
  const settings = tinySettings({ ...DEEP, steps: outcome.losses.length });
  expect(bits(outcome)).toEqual(bits(await runSerial(settings, scratch.folder())));
}

test(
  "a member that is never given the losses that it lacks is left out, and the ring goes on",
  async () => {
    shortenPatience();
    await using ring = await MortalRing.form(tinySettings({ ...DEEP, nodes: 4 }));
    await ring.reached(4);
    vi.spyOn(History.prototype, "catchUp").mockReturnValueOnce(new Promise(() => {}));
    ring.kill(3);
    await ring.trainsWith(2);
    await expectUndisturbed(ring);
  },
  LIMIT_MS,
);

test(
  "two members that do not reach each other hear from others that they are ready",
  async () => {
    await using ring = await MortalRing.form(tinySettings({ ...DEEP, nodes: 5 }));
    await ring.reached(4);
    ring.sever(0, 2);
    ring.kill(3);
    await ring.trainsWith(4);
    await expectUndisturbed(ring);
  },
  LIMIT_MS,
);
