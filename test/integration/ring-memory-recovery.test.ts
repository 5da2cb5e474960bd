/**
 * @file Rings in one process whose nodes die, come back, come new and leave in mid-run: the bits of one process that nobody disturbed, and
 * each committed step told once.
 */
import { afterAll, describe, expect, test } from "vitest";
import type { Settings } from "../../src/config/settings.ts";
import { RUN_FILES } from "../../src/metrics/run-folder.ts";
import { ExitCode, NodeLostError } from "../../src/types/errors.ts";
import { bits, type Outcome, runSerial, Scratch, tinySettings } from "../helpers/memory-ring.ts";
import { MortalRing } from "../helpers/mortal-ring.ts";

const scratch = new Scratch();
afterAll(() => scratch.remove());

const LIMIT_MS = 90_000;
/** Eight layers; a step is told some steps after it was computed, and these must be left to train. */
const DEEP = { model: "mlp:6-9-5-7-8-6-9-5-4", steps: 60 };

const undisturbed = new Map<string, Promise<Outcome>>();
/** Of one process; optimizer and number of steps are all that these tests change about the result. */
function oracle({ optimizer, steps }: Settings): Promise<Outcome> {
  const key = `${optimizer} ${steps}`;
  const known = undisturbed.get(key) ?? runSerial(tinySettings({ ...DEEP, optimizer, steps }), scratch.folder());
  undisturbed.set(key, known);
  return known;
}

async function expectUndisturbed(ring: MortalRing, settings: Settings): Promise<Outcome> {
  const outcome = await ring.outcome();
  expect(bits(outcome)).toEqual(bits(await oracle({ ...settings, steps: outcome.losses.length })));
  return outcome;
}

interface RecoveryRecord {
  readonly node: number;
  readonly cause: string;
}
const recoveriesOf = ({ summary }: Outcome): readonly RecoveryRecord[] =>
  summary["recoveries"] as readonly RecoveryRecord[];

describe("a node dies in mid-run", () => {
  test.each([
    [0, 1, "adam", "zero-bubble"],
    [1, 1, "momentum", "gpipe"],
    [2, 1, "sgd", "zb-h1"],
    [3, 1, "adam", "zero-bubble"],
    [0, 2, "momentum", "zero-bubble"],
    [1, 2, "adam", "interleaved"],
    [3, 2, "sgd", "zero-bubble"],
  ])(
    "node %i of four, %i laps, %s, %s",
    async (victim, laps, optimizer, schedule) => {
      const settings = tinySettings({ ...DEEP, nodes: 4, laps, optimizer, schedule, checkpointEvery: 5 });
      await using ring = await MortalRing.form(settings);
      await ring.reached(4);
      ring.kill(victim);
      const outcome = await expectUndisturbed(ring, settings);
      expect(recoveriesOf(outcome)).toMatchObject([{ node: victim, cause: "closed" }]);
    },
    LIMIT_MS,
  );

  test.each([0, 1, 30, 58])(
    "after step %i",
    async (step) => {
      const settings = tinySettings({ ...DEEP, nodes: 3 });
      await using ring = await MortalRing.form(settings);
      await ring.reached(step);
      ring.kill(step % 3);
      await expectUndisturbed(ring, settings);
    },
    LIMIT_MS,
  );

  test(
    "of two, and the other one waits until it is back",
    async () => {
      const settings = tinySettings({ ...DEEP, nodes: 2, steps: 100_000 });
      await using ring = await MortalRing.form(settings);
      await ring.reached(4);
      ring.kill(1);
      await ring.come(1);
      await ring.trainsWith(2);
      ring.requestStop();
      await expectUndisturbed(ring, settings);
    },
    LIMIT_MS,
  );
});

describe("two nodes die", () => {
  test.each([
    [[0, 1], 1, "adam"],
    [[2, 3], 1, "momentum"],
    [[4, 0], 1, "sgd"],
    [[1, 3], 1, "adam"],
    [[3, 4], 2, "momentum"],
  ])(
    "%j of five at once, two replicas, %i laps, %s",
    async (victims, laps, optimizer) => {
      const model = laps === 1 ? {} : { model: `${DEEP.model.replace(/-4$/, "")}-7-6-4` };
      const settings = tinySettings({ ...DEEP, ...model, nodes: 5, replicas: 2, laps, optimizer });
      await using ring = await MortalRing.form(settings);
      await ring.reached(4);
      ring.kill(...victims);
      if (laps === 1) await expectUndisturbed(ring, settings);
      else expect(bits(await ring.outcome())).toEqual(bits(await runSerial(settings, scratch.folder())));
    },
    LIMIT_MS,
  );

  test(
    "the second as soon as the ring trains again",
    async () => {
      const settings = tinySettings({ ...DEEP, nodes: 5, steps: 100_000, replicas: 2 });
      await using ring = await MortalRing.form(settings);
      await ring.reached(4);
      ring.kill(2);
      await ring.trainsWith(4);
      ring.kill(3);
      await ring.trainsWith(3);
      ring.requestStop();
      const outcome = await expectUndisturbed(ring, settings);
      expect(recoveriesOf(outcome).map(({ node }) => node)).toEqual([2, 3]);
    },
    LIMIT_MS,
  );
});

test(
  "three neighbours die at once with two replicas: a stop that names what is lost and how to go on, never other bits",
  async () => {
    const settings = tinySettings({ ...DEEP, nodes: 7, steps: 1_000, replicas: 2, checkpointEvery: 5 });
    await using ring = await MortalRing.form(settings);
    const cut = await ring.reached(12).then(() => ring.cut);
    ring.kill(1, 2, 3);
    const ends = await ring.ends();
    expect(ends).toHaveLength(4);
    for (const end of ends) {
      expect(end).toBeInstanceOf(NodeLostError);
      const { message, remedy, exitCode } = end as NodeLostError;
      expect(exitCode).toBe(ExitCode.lost);
      const [start, last] = [cut[1]![0], cut[1]![1] - 1];
      const layers = Array.from({ length: last - start + 1 }, (_, index) => start + index).join(", ");
      expect(message).toContain(`layers ${layers} are lost`);
      expect(remedy).toMatch(/^go on from step \d+: ringtmp up --resume /);
    }
  },
  LIMIT_MS,
);

describe("nodes come and go", () => {
  test(
    "one joins in mid-run and gets layers",
    async () => {
      const settings = tinySettings({ ...DEEP, nodes: 3, steps: 100_000 });
      await using ring = await MortalRing.form(settings);
      await ring.reached(4);
      await ring.come(3);
      await ring.trainsWith(4);
      ring.requestStop();
      const { summary } = await expectUndisturbed(ring, settings);
      expect(summary["perNode"]).toHaveLength(4);
    },
    LIMIT_MS,
  );

  test.each([0, 1, 3])(
    "node %i of four leaves in mid-run",
    async (leaver) => {
      const settings = tinySettings({ ...DEEP, nodes: 4, steps: 100_000 });
      await using ring = await MortalRing.form(settings);
      await ring.reached(4);
      await ring.leave(leaver);
      await ring.trainsWith(3);
      ring.requestStop();
      const outcome = await expectUndisturbed(ring, settings);
      expect(recoveriesOf(outcome)).toMatchObject([{ node: leaver, cause: "left" }]);
    },
    LIMIT_MS,
  );

  test(
    "all are restarted, one after the other",
    async () => {
      const settings = tinySettings({ ...DEEP, nodes: 3, steps: 100_000 });
      await using ring = await MortalRing.form(settings);
      for (const node of [0, 1, 2]) {
        await ring.trainsWith(3);
        ring.kill(node);
        await ring.trainsWith(2);
        await ring.come(node);
      }
      await ring.trainsWith(3);
      ring.requestStop();
      await expectUndisturbed(ring, settings);
      const views = ring.folder.readLines(RUN_FILES.events) as readonly { kind: string; removed: RecoveryRecord[] }[];
      const removed = views.filter(({ kind }) => kind === "view").flatMap((view) => view.removed);
      expect(removed.map(({ node, cause }) => `${node} ${cause}`)).toEqual(["0 closed", "1 closed", "2 closed"]);
    },
    LIMIT_MS,
  );
});
