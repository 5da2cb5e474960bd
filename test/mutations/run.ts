/**
 * @file The mutation gate: each patch beside this file breaks the program in one way, and the tests that it names must notice. Run
 * as `npm run mutations`, or `npm run mutations -- view- recovery-` for those whose names begin so. A patch is a unified diff against the current sources below two header lines:
 *
 *     # breaks: what is broken, and what would come of it
 *     # tests: test/unit/a.test.ts test/unit/b.test.ts
 *
 * Caught means that a test failed: not that the runner crashed, a file could not be loaded, or time ran out.
 */
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { applyPatch, copyTree, run } from "./tree.ts";

const PARALLEL_MAX = 2;
const MUTANT_LIMIT_MS = 90_000;
const UNPATCHED_LIMIT_MS = 300_000;

interface Mutation {
  readonly name: string;
  readonly patch: string;
  readonly breaks: string;
  readonly tests: readonly string[];
  readonly touchesKernels: boolean;
}

/** `failed`: the first test that failed. */
type Outcome =
  | { readonly kind: "passed" }
  | { readonly kind: "failed"; readonly test: string }
  | { readonly kind: "crashed"; readonly reason: string };

/** What vitest's JSON reporter writes, as far as it is read here. */
interface Report {
  readonly testResults: readonly {
    readonly name: string;
    readonly status: string;
    readonly message: string;
    readonly assertionResults: readonly { readonly status: string; readonly fullName: string }[];
  }[];
}

function readMutation(file: string): Mutation {
  const patch = join(import.meta.dirname, file);
  const text = readFileSync(patch, "utf8");
  const [, breaks] = /^# breaks: (.+)$/m.exec(text) ?? [];
  const [, tests] = /^# tests: (.+)$/m.exec(text) ?? [];
  if (breaks === undefined || tests === undefined) throw new Error(`${file} lacks "# breaks: …" or "# tests: …"`);
  const touchesKernels = /^\+\+\+ b\/src\/engine\/kernels\//m.test(text);
  return { name: file.replace(/\.patch$/, ""), patch, breaks, tests: tests.split(" "), touchesKernels };
}

/** Runs tests in a copy, up to the first that fails. */
async function runTests(path: string, tests: readonly string[], limitMs: number): Promise<Outcome> {
  const file = join(path, "report.json");
  const missing = tests.find((test) => !existsSync(join(path, test)));
  if (missing !== undefined) return { kind: "crashed", reason: `there is no ${missing}` };
  const flags = ["run", "--bail=1", "--reporter=json", `--outputFile=${file}`, ...tests];
  const { code, output } = await run(process.execPath, ["node_modules/vitest/vitest.mjs", ...flags], path, limitMs);
  if (!existsSync(file)) return { kind: "crashed", reason: `no report (exit code ${code}): ${output.slice(-500)}` };
  const { testResults } = JSON.parse(readFileSync(file, "utf8")) as Report;
  const failed = testResults.flatMap((result) => result.assertionResults).find(({ status }) => status === "failed");
  if (failed !== undefined) return { kind: "failed", test: failed.fullName };
  const unloaded = testResults.find((result) => result.status === "failed");
  if (unloaded !== undefined) return { kind: "crashed", reason: `${unloaded.name}: ${unloaded.message.slice(0, 500)}` };
  return code === 0 ? { kind: "passed" } : { kind: "crashed", reason: output.slice(-500) };
}

class Gate {
  readonly #folder = mkdtempSync(join(tmpdir(), "ringtmp-mutations-"));
  #caught = 0;
  #missed = 0;

  /** Returns the exit code. */
  async run(mutations: readonly Mutation[]): Promise<number> {
    // Also where the gate is interrupted.
    process.on("exit", () => rmSync(this.#folder, { recursive: true, force: true }));
    if (!(await this.#unpatchedPasses(mutations))) return 1;
    const left = [...mutations];
    const work = async (): Promise<void> => {
      for (let next = left.shift(); next !== undefined; next = left.shift()) await this.#judge(next);
    };
    await Promise.all(Array.from({ length: PARALLEL_MAX }, work));
    console.log(`${this.#caught} caught, ${this.#missed} missed`);
    return this.#missed === 0 ? 0 : 1;
  }

  async #unpatchedPasses(mutations: readonly Mutation[]): Promise<boolean> {
    const path = join(this.#folder, "unpatched");
    copyTree(path);
    const tests = [...new Set(mutations.flatMap((mutation) => mutation.tests))];
    const startMs = performance.now();
    const outcome = await runTests(path, tests, UNPATCHED_LIMIT_MS);
    const detail =
      outcome.kind === "failed" ? `: ${outcome.test}` : outcome.kind === "crashed" ? `: ${outcome.reason}` : "";
    console.log(`unpatched: ${outcome.kind}${detail} (${seconds(startMs)}, ${tests.length} files)`);
    return outcome.kind === "passed";
  }

  async #judge(mutation: Mutation): Promise<void> {
    const { name, patch, breaks, tests, touchesKernels } = mutation;
    const path = join(this.#folder, name);
    const startMs = performance.now();
    copyTree(path);
    const fault = await applyPatch(path, patch, touchesKernels);
    const outcome: Outcome =
      fault === undefined ? await runTests(path, tests, MUTANT_LIMIT_MS) : { kind: "crashed", reason: fault };
    rmSync(path, { recursive: true, force: true });
    if (outcome.kind === "failed") {
      this.#caught += 1;
      console.log(`caught ${seconds(startMs)}  ${name}: ${outcome.test}`);
      return;
    }
    this.#missed += 1;
    const reason = outcome.kind === "crashed" ? outcome.reason : "every test passed";
    console.log(`MISSED ${seconds(startMs)}  ${name} (${breaks}): ${reason}`);
  }
}

const seconds = (startMs: number): string => `${((performance.now() - startMs) / 1000).toFixed(1).padStart(5)} s`;

const wanted = process.argv.length > 2 ? process.argv.slice(2) : [""];
const files = readdirSync(import.meta.dirname).filter(
  (file) => file.endsWith(".patch") && wanted.some((begin) => file.startsWith(begin)),
);
process.exitCode = await new Gate().run(files.toSorted().map(readMutation));
