/**
 * @file The project's own rules for its sources: who may import whom, where clock, process and libp2p may be seen, what a
 * pure core may not hold, how long files and functions are. Each violation names file, line and rule.
 */
import { dirname, join, normalize } from "node:path/posix";
import { findFunctions, findImports, lineAt, type MaskedSource, maskSource } from "./source-text.ts";

const FILE_LINES_MAX = 400;
const FUNCTION_LINES_MAX = 70;

/** From the lowest level to the highest: a file imports its own level and those before it. */
const LEVELS: readonly (readonly string[])[] = [
  ["src/types"],
  ["src/engine"],
  ["src/wire", "src/data", "src/optim", "src/nn"],
  ["src/runtime", "src/net", "src/sim", "src/metrics", "src/config"],
  ["ring", "baseline-ps", "baseline-allreduce"],
  ["experiments", "src/dashboard", "src/plot", "src/plan"],
  ["src/cli"],
];
const SYSTEMS_LEVEL = 4;

const CLOCK =
  /\bDate\s*\.\s*now\b|\bnew\s+Date\b(?!\s*\(\s*[^)\s])|\bperformance\s*\.\s*(?:now|timeOrigin)\b|\bhrtime\b/g;
/** The global; not a property, a key or a method of this name. */
const PROCESS = /(?<![.\w$#])(?:globalThis\s*\.\s*)?process\b(?!\s*\(|\s*\??\s*:)/g;
const IMPURE =
  /\b(?:async|await|Promise|Date|performance|process|crypto|set(?:Timeout|Interval|Immediate)|queueMicrotask)\b|\bMath\s*\.\s*random\b|\bFloat(?:16|32)Array\b/g;

interface Source extends MaskedSource {
  /** From the project's root, with `/`. */
  readonly path: string;
  readonly text: string;
}

interface Finding {
  readonly line: number;
  readonly rule: string;
}

type Rule = (source: Source) => readonly Finding[];

const isProduction = (path: string): boolean => !/^(?:test|bin)\/|^[^/]*$/.test(path);
const isCore = (path: string): boolean => /^(?:ring|baseline-[a-z]+)\/(?:[a-z]+\/)?core\//.test(path);

/** The folder of a level that `path` is in. */
function placeOf(path: string): { readonly folder: string; readonly level: number } | undefined {
  for (const [level, folders] of LEVELS.entries()) {
    const folder = folders.find((candidate) => path.startsWith(`${candidate}/`));
    if (folder !== undefined) return { folder, level };
  }
  return undefined;
}

function findAll({ code }: Source, pattern: RegExp, rule: string): readonly Finding[] {
  return [...code.matchAll(pattern)].map(({ 0: found, index }) => ({
    line: lineAt(code, index),
    rule: `${rule}: ${found}`,
  }));
}

/** Every rule about one import; undefined where it is allowed. `target` is null for packages and Node's modules. */
function importRule(path: string, specifier: string, target: string | null): string | undefined {
  const isLibp2p = /^(?:libp2p$|libp2p\/|@libp2p\/)/.test(specifier);
  if (isLibp2p && !/^src\/net\/libp2p[^/]*\.ts$/.test(path)) return "only src/net/libp2p*.ts imports libp2p";
  if (/^(?:node:)?process$/.test(specifier) && !seesProcess(path)) {
    return "only src/cli and src/runtime/process*.ts see the process";
  }
  if (isCore(path) && !target?.startsWith(`${dirname(path)}/`) && !target?.startsWith("src/types/")) {
    return "a pure core imports src/types and its own folder only";
  }
  if (path.startsWith("src/types/") && !target?.startsWith("src/types/")) return "src/types imports nothing";
  return target === null ? undefined : layerRule(path, target);
}

function layerRule(path: string, target: string): string | undefined {
  const from = placeOf(path);
  const to = placeOf(target);
  if (from === undefined) return "the file is in no layer";
  if (to === undefined) return "what is imported is in no layer";
  if (to.level > from.level) return `a lower layer (${from.folder}) does not import a higher one (${to.folder})`;
  if (to.level === SYSTEMS_LEVEL && from.level === SYSTEMS_LEVEL && from.folder !== to.folder) {
    return "systems never import each other: what two need moves to src";
  }
  return undefined;
}

const seesProcess = (path: string): boolean =>
  path.startsWith("src/cli/") || /^src\/runtime\/process[^/]*\.ts$/.test(path);

const imports: Rule = (source) => {
  if (!isProduction(source.path)) return [];
  return findImports(source.text, source).flatMap(({ specifier, line }) => {
    const target = specifier.startsWith(".") ? normalize(join(dirname(source.path), specifier)) : null;
    const rule = importRule(source.path, specifier, target);
    return rule === undefined ? [] : [{ line, rule: `${rule}: "${specifier}"` }];
  });
};

const clock: Rule = (source) => {
  if (!isProduction(source.path) || source.path === "src/runtime/clock.ts") return [];
  return findAll(source, CLOCK, "only src/runtime/clock.ts reads a clock");
};

const processGlobal: Rule = (source) => {
  if (!isProduction(source.path) || seesProcess(source.path)) return [];
  return findAll(source, PROCESS, "only src/cli and src/runtime/process*.ts see the process");
};

const pureCore: Rule = (source) =>
  isCore(source.path) ? findAll(source, IMPURE, "a pure core has no clock, chance, waiting or arrays") : [];

const header: Rule = ({ text }) =>
  /^\/\*\*\s+(?:\*\s+)?@file\s/.test(text) ? [] : [{ line: 1, rule: "a file opens with /** @file" }];

const fileLength: Rule = ({ text }) => {
  const lines = text.replace(/\n$/, "").split("\n").length;
  if (lines <= FILE_LINES_MAX) return [];
  return [{ line: FILE_LINES_MAX + 1, rule: `a file has at most ${FILE_LINES_MAX} lines, not ${lines}` }];
};

const functionLength: Rule = (source) =>
  findFunctions(source)
    .filter(({ lines }) => lines > FUNCTION_LINES_MAX)
    .map(({ line, lines }) => ({
      line,
      rule: `a function has at most ${FUNCTION_LINES_MAX} lines, not ${lines}`,
    }));

const unfinished: Rule = ({ comments }) =>
  [...comments.matchAll(/\b(?:TODO|FIXME)\b/g)].map(({ 0: word, index }) => ({
    line: lineAt(comments, index),
    rule: `what is unfinished is not in the code: ${word}`,
  }));

const everyTest: Rule = (source) =>
  source.path.startsWith("test/")
    ? findAll(source, /\.\s*(?:only|skip)\b/g, "every test runs, or says when it cannot (skipIf)")
    : [];

const RULES: readonly Rule[] = [
  ...[imports, clock, processGlobal, pureCore],
  ...[header, fileLength, functionLength, unfinished, everyTest],
];

/** What is wrong with one file, as `path:line: rule`. `path` is from the project's root, with `/`. */
export function findViolations(path: string, text: string): readonly string[] {
  const source = { path, text, ...maskSource(text) };
  return RULES.flatMap((rule) => rule(source)).map(({ line, rule }) => `${path}:${line}: ${rule}`);
}
