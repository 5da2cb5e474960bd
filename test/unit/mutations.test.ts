/** @file The mutation gate's patches follow the sources: one that no longer applies breaks nothing, and shows nothing. */
import { spawnSync } from "node:child_process";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";

const ROOT = join(import.meta.dirname, "..", "..");
const FOLDER = join(ROOT, "test", "mutations");

test("every patch applies to the sources as they are", { timeout: 60_000 }, () => {
  const patches = readdirSync(FOLDER).filter((file) => file.endsWith(".patch"));
  expect(patches.length).toBeGreaterThan(100);
  const stale = patches.filter((file) => {
    const { status } = spawnSync("git", ["apply", "--check", join(FOLDER, file)], { cwd: ROOT, stdio: "ignore" });
    return status !== 0;
  });
  expect(stale).toEqual([]);
});
