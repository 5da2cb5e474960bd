/**
 * @file What must hold before a commit, beside the tests: types, lint, format, dead code, and the project's own rules. Every
 * check runs, also after one failed; the output of those that failed follows their line. Run as `npm run check`.
 */
"use strict";
const { spawnSync } = require("node:child_process");
const { join } = require("node:path");

const root = join(__dirname, "..");
const OUTPUT_BYTES_MAX = 64 * 1024 * 1024;
const TIME_LIMIT_MS = 300_000;

/** Name, program below node_modules, arguments. */
const CHECKS = [
  ["types", "typescript/bin/tsc", "-p", "tsconfig.json", "--noEmit"],
  [
    "lint",
    "oxlint/bin/oxlint",
    "--type-aware",
    "--format=unix",
    "--deny-warnings",
    "--report-unused-disable-directives",
  ],
  ["format", "prettier/bin/prettier.cjs", "--check", "--log-level", "warn", "."],
  ["dead code", "knip/bin/knip.js", "--no-progress", "--treat-config-hints-as-errors"],
  ["tidy", "vitest/vitest.mjs", "run", "--reporter=dot", "test/tidy.test.ts"],
];

/** Prints the check's line, and its output where it failed. Returns whether it passed. */
function runCheck([name, program, ...parameters]) {
  const startMs = performance.now();
  const { status, error, stdout, stderr } = spawnSync(
    process.execPath,
    [join(root, "node_modules", program), ...parameters],
    { cwd: root, encoding: "utf8", maxBuffer: OUTPUT_BYTES_MAX, timeout: TIME_LIMIT_MS },
  );
  const seconds = ((performance.now() - startMs) / 1000).toFixed(1);
  const passed = status === 0 && error === undefined;
  console.log(`${name.padEnd(10)} ${passed ? "ok    " : "FAILED"} ${seconds.padStart(6)} s`);
  if (!passed) console.log([stdout, stderr, error?.message].filter(Boolean).join("\n"));
  return passed;
}

const failed = CHECKS.filter((check) => !runCheck(check)).map(([name]) => name);
console.log(failed.length === 0 ? "all checks passed" : `failed: ${failed.join(", ")}`);
process.exitCode = failed.length === 0 ? 0 : 1;
