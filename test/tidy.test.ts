/** @file Every source keeps the project's rules; and each rule, on samples, finds what breaks it and nothing else. */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { findFunctions, findImports, maskSource } from "./helpers/source-text.ts";
import { findViolations } from "./helpers/tidy-rules.ts";

const ROOT = join(import.meta.dirname, "..");
const SOURCE_ROOT = /^(?:src|ring|baseline-[a-z]+|experiments|test|bin)$/;
const SKIPPED = /(?:^|\/)node_modules\/|^src\/engine\/build\//;

function sourcePaths(): readonly string[] {
  const entries = readdirSync(ROOT, { withFileTypes: true });
  const inFolders = entries
    .filter((entry) => entry.isDirectory() && SOURCE_ROOT.test(entry.name))
    .flatMap(({ name }) =>
      readdirSync(join(ROOT, name), { recursive: true, encoding: "utf8" }).map((path) => join(name, path)),
    );
  return [...inFolders, ...entries.filter((entry) => entry.isFile()).map((entry) => entry.name)]
    .map((path) => path.replaceAll("\\", "/"))
    .filter((path) => /\.c?ts$|\.cjs$/.test(path) && !SKIPPED.test(path))
    .toSorted();
}

const HEADER = "/** @file A sample. */\n";
/** The rules that a sample at `path` breaks, without the place. */
const broken = (path: string, body: string): readonly string[] => findViolations(path, HEADER + body);
const lines = (count: number): string => "a();\n".repeat(count);

test("every source is tidy", () => {
  const paths = sourcePaths();
  expect(paths).toContain("src/types/assert.ts");
  expect(paths).toContain("bin/check.cjs");
  expect(paths.flatMap((path) => findViolations(path, readFileSync(join(ROOT, path), "utf8")))).toEqual([]);
});

describe("each rule finds what breaks it", () => {
  test.each([
    ["lower layer (src/engine)", "src/engine/x.ts", `import { a } from "../nn/segment.ts";`],
    ["lower layer", "src/engine/x.ts", `export * from '../net/link.ts';`],
    ["lower layer", "src/nn/x.ts", `import type { A } from "../runtime/clock.ts";`],
    ["lower layer", "src/nn/x.ts", `const a = await import("../runtime/clock.ts");`],
    ["lower layer", "src/nn/x.ts", `const a = new URL("../runtime/clock.ts", import.meta.url);`],
    ["lower layer", "src/net/x.ts", `import {\n  a,\n} from "../../ring/index.ts";`],
    ["lower layer", "ring/index.ts", `import "../src/cli/main.ts";`],
    ["systems never", "ring/index.ts", `import { a } from "../baseline-ps/index.ts";`],
    ["systems never", "baseline-ps/index.ts", `import { a } from "../ring/core/credits.ts";`],
    ["in no layer", "src/cli/x.ts", `import { a } from "../../test/helpers/a.ts";`],
    ["in no layer", "src/new/x.ts", `import { a } from "../types/ids.ts";`],
    ["src/types imports nothing", "src/types/x.ts", `import { join } from "node:path";`],
    ["src/types imports nothing", "src/types/x.ts", `import { join } from "zod";`],
    ["imports libp2p", "src/net/link.ts", `import { createLibp2p } from "libp2p";`],
    ["imports libp2p", "ring/runtime/x.ts", `import type { PeerId } from "@libp2p/interface";`],
    ["pure core imports", "ring/core/x.ts", `import { readFileSync } from "node:fs";`],
    ["pure core imports", "ring/core/x.ts", `import { a } from "../runtime/node.ts";`],
    ["pure core imports", "ring/core/x.ts", `import { a } from "../../src/engine/memory.ts";`],
    ["pure core imports", "baseline-ps/core/x.ts", `import { z } from "zod";`],
    ["pure core imports", "baseline-ps/localize/core/x.ts", `import { a } from "../node.ts";`],
    ["pure core has no", "ring/core/x.ts", `export async function a() {}`],
    ["pure core has no", "ring/core/x.ts", `const a = Math.random();`],
    ["pure core has no", "ring/core/x.ts", `const a = new Date(5);`],
    ["pure core has no", "ring/core/x.ts", `setTimeout(a, 5);`],
    ["pure core has no", "ring/core/x.ts", `const a = new Float32Array(5);`],
    ["reads a clock", "src/runtime/x.ts", `const a = Date.now();`],
    ["reads a clock", "src/runtime/x.ts", `const a = new Date();`],
    ["reads a clock", "src/net/x.ts", `const a = performance.now();`],
    ["reads a clock", "src/net/x.ts", `const a = performance.timeOrigin;`],
    ["reads a clock", "src/cli/x.ts", `const a = process.hrtime.bigint();`],
    ["see the process", "src/engine/x.ts", `const a = process.version;`],
    ["see the process", "src/engine/x.ts", `const a = globalThis.process;`],
    ["see the process", "src/engine/x.ts", "const a = `on ${process.version}`;"],
    ["see the process", "src/engine/x.ts", `import { argv } from "node:process";`],
    ["at most 400 lines, not 401", "src/nn/x.ts", lines(400)],
    ["at most 70 lines, not 71", "src/nn/x.ts", `function a(): void {\n${lines(69)}}`],
    ["not 71", "src/nn/x.ts", `class A {\n  b(c: { d: number }): Promise<{ e(): void }> {\n${lines(69)}  }\n}`],
    ["not 71", "src/nn/x.ts", `class A {\n  constructor(c: string) {\n${lines(69)}  }\n}`],
    ["not 71", "src/nn/x.ts", `const a = (b: number): void => {\n${lines(69)}};`],
    ["not 71", "test/unit/x.test.ts", `test("a", async () => {\n${lines(69)}});`],
    ["not 71", "test/unit/x.test.ts", `describe("a", () => {\n  test("b", () => {\n${lines(69)}  });\n});`],
    ["unfinished", "src/nn/x.ts", "// TODO: later"],
    ["unfinished", "bin/x.cjs", "/* FIXME */"],
    ["every test runs", "test/unit/x.test.ts", `describe.only("a", b);`],
    ["every test runs", "test/unit/x.test.ts", `it.skip("a", b);`],
  ])("%s (sample %#, %s)", (rule, path, body) => {
    const found = broken(path, body);
    expect(found.join("\n")).toContain(rule);
    expect(found[0]).toMatch(new RegExp(`^${path.replaceAll(".", "\\.")}:\\d+: `));
  });

  test("a missing header", () => {
    expect(findViolations("src/nn/x.ts", "// @file\n")).toEqual(["src/nn/x.ts:1: a file opens with /** @file"]);
    expect(findViolations("src/nn/x.ts", "/**\n * @file Two\n * lines. */\n")).toEqual([]);
  });

  test("the line is the one where it stands", () => {
    const body = `import { a } from "./a.ts";\n\nconst b = Date.now();\n`;
    expect(broken("src/nn/x.ts", body)).toEqual(["src/nn/x.ts:4: only src/runtime/clock.ts reads a clock: Date.now"]);
  });
});

describe("no rule finds what is allowed", () => {
  test.each([
    ["src/cli/main.ts", `import { a } from "../../ring/index.ts";\nprocess.exitCode = 1;`],
    ["src/net/link.ts", `import { a } from "../metrics/timeline.ts";\nimport { b } from "node:net";`],
    ["src/net/libp2p-stream.ts", `import type { Stream } from "@libp2p/interface";`],
    ["src/types/random.ts", `import { assert } from "./assert.ts";`],
    ["ring/core/x.ts", `import { a } from "./credits.ts";\nimport { b } from "../../src/types/ids.ts";`],
    ["ring/runtime/x.ts", `import { a } from "../core/stage.ts";\nexport async function b() {}`],
    ["src/runtime/clock.ts", `export const now = () => performance.now();`],
    ["src/runtime/process-sample.ts", `const a = process.pid + performance.eventLoopUtilization().active;`],
    ["src/metrics/x.ts", `const a = new Date(5).toISOString();`],
    [
      "src/engine/x.ts",
      `// process.exit ends it; Date.now() does not\nconst a = "process.env", b = this.process, c = { process: 1 };`,
    ],
    ["src/engine/x.ts", "const a = /process/.test(b) ? `Date.now() ${c} process` : d;"],
    ["src/nn/x.ts", lines(399)],
    ["src/nn/x.ts", `function a(): void {\n${lines(68)}}`],
    ["src/nn/x.ts", `class A {\n  b(): void {}\n${"  c = 1;\n".repeat(90)}}`],
    ["src/nn/x.ts", `const A = {\n${"  c: 1,\n".repeat(90)}};`],
    ["test/unit/x.test.ts", `describe("a", () => {\n${lines(90)}});`],
    ["test/suite.ts", `export function suite(): void {\n  describe("a", () => {\n${lines(90)}  });\n}`],
    [
      "test/suite.ts",
      `function suite() {\n  for (const a of b) {\n    describe(a, () => {\n${lines(90)}    });\n  }\n}`,
    ],
    ["test/unit/x.test.ts", `import { tcp } from "@libp2p/tcp";\nit.skipIf(Date.now() > 5)("a", () => {});`],
    ["src/data/x.ts", `reader.skip(4);`],
  ])("sample %#, %s", (path, body) => {
    expect(broken(path, body)).toEqual([]);
  });
});

describe("the scanner", () => {
  test("masks comments, strings, templates and regular expressions, and keeps every line", () => {
    const text = 'a(`x ${`y ${{ b: \'`\' }} z`} {`); // { "c\n/* {\n*/ d / e / f; const g = /[/"{]\\//.test("\\"{");';
    const { code, comments } = maskSource(text);
    expect(code.length).toBe(text.length);
    expect(code.replace(/ +/g, " ")).toBe("a( { b: ' ' } ); \n \n d / e / f; const g = .test(\" \");");
    expect(comments.trim().replace(/ +/g, " ")).toBe('// { "c\n/* {\n*/');
  });

  test("tells a brace from the end of a template's expression, and a regular expression from a division", () => {
    expect(maskSource("{ `${a}`; } b(`c`);").code.replace(/ +/g, " ")).toBe("{ a ; } b( );");
    expect(maskSource('return /"/.test(a) / "{".length').code.replace(/ +/g, " ")).toBe('return .test(a) / " ".length');
  });

  test("finds imports as they are written, not where they are quoted", () => {
    const text = `import a from "a";\nimport "b";\nexport { c } from 'c';\nconst d = 'import "e"'; // from "f"\n`;
    expect(findImports(text, maskSource(text))).toEqual([
      { specifier: "a", line: 1 },
      { specifier: "b", line: 2 },
      { specifier: "c", line: 3 },
    ]);
  });

  test("measures functions, not the blocks in them", () => {
    const text = `function a(b = {}) {\n  if (b) {\n  }\n  for (const c of d()) {\n  }\n  return e(() => {\n  });\n}\n`;
    expect(findFunctions(maskSource(text))).toEqual([
      { line: 6, lines: 2 },
      { line: 1, lines: 8 },
    ]);
  });
});
