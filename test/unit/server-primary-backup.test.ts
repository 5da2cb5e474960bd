/** @file A machine in two processes: whatever dies when, what the primary has said, the backup knows. */
import { expect, test } from "vitest";
import { PrimaryBackup } from "../../baseline-ps/core/primary-backup.ts";
import { RandomStream } from "../../src/types/random.ts";

test("alone, an input is made at once", () => {
  const inputs = new PrimaryBackup<string>(false);
  expect(inputs.hasBackup).toBe(false);
  expect(inputs.offer("a")).toEqual(["a"]);
});

test("with a backup it is made when the backup has it, in order; when the backup is gone, at once", () => {
  const inputs = new PrimaryBackup<string>(true);
  expect(["a", "b", "c"].flatMap((input) => inputs.offer(input))).toEqual([]);
  expect(inputs.had(2)).toEqual(["a", "b"]);
  // Said again, or late.
  expect(inputs.had(1)).toEqual([]);
  expect(inputs.had(2)).toEqual([]);
  expect(inputs.alone()).toEqual(["c"]);
  expect(inputs.hasBackup).toBe(false);
  expect(inputs.offer("d")).toEqual(["d"]);
});

const SEED = Math.floor(Math.random() * 2 ** 31);
test(`at every moment the backup has all that was made, and both make the same in the same order (seed ${SEED})`, () => {
  for (let run = 0; run < 500; run += 1) {
    const random = new RandomStream(SEED, run);
    const primary = new PrimaryBackup<number>(true);
    const [sent, backup, made]: [number[], number[], number[]] = [[], [], []];
    let acknowledged = 0;
    let offered = 0;
    const diesAt = random.nextBelow(60);
    for (let event = 0; event < 80; event += 1) {
      if (event === diesAt) made.push(...primary.alone());
      const isWithBackup = event < diesAt;
      const kind = random.nextBelow(3);
      if (kind === 0) {
        if (primary.hasBackup) sent.push(offered);
        made.push(...primary.offer(offered));
        offered += 1;
      } else if (isWithBackup && kind === 1 && sent.length > 0) backup.push(sent.shift()!);
      else if (isWithBackup && kind === 2) {
        acknowledged += random.nextBelow(backup.length - acknowledged + 1);
        made.push(...primary.had(acknowledged));
      }
      if (isWithBackup) expect(made.length).toBeLessThanOrEqual(backup.length);
      expect(made).toEqual(made.map((_, index) => index));
    }
  }
});
