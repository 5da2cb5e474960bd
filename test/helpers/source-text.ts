/**
 * @file Reads TypeScript just far enough for the tidy test: what is code and what is comment, imports, functions and their
 * length. A tokenizer without a grammar: a regular expression right behind `)` or `}` is taken for a division.
 */

/** The same text twice, of equal length and lines: blanks stand where the other kind was. */
export interface MaskedSource {
  /** Without comments, and without what strings, templates and regular expressions say; quotes stay. */
  readonly code: string;
  readonly comments: string;
}

const COMMENT = /\/\/[^\n]*|\/\*[\s\S]*?\*\//y;
const STRING = /"(?:\\[\s\S]|[^"\\\n])*"|'(?:\\[\s\S]|[^'\\\n])*'/y;
const TEMPLATE_PART = /[`}](?:\\[\s\S]|\$(?!\{)|[^`\\$])*(?:`|\$\{)/y;
const REGULAR_EXPRESSION = /\/(?:\\.|\[(?:\\.|[^\]\\\n])*\]|[^/\\[\n])+\/[a-z]*/y;
/** What stands before a `/` that divides. */
const OPERAND = /(?:[\w$)\]}"'`])\s*$/;
const OPERATOR_WORD = /\b(?:return|typeof|case|in|of|await|yield)\s*$/;

const blank = (text: string): string => text.replace(/[^\n]/g, " ");

function matchAt(pattern: RegExp, text: string, at: number): string | undefined {
  pattern.lastIndex = at;
  return pattern.exec(text)?.[0];
}

export function maskSource(text: string): MaskedSource {
  let code = "";
  let comments = "";
  let depth = 0;
  /** Depth of braces at each `${` that is open. */
  const templates: number[] = [];
  const take = (token: string, kept: string): void => {
    code += kept;
    comments += blank(token);
  };
  while (code.length < text.length) {
    const at = code.length;
    const character = text.charAt(at);
    const comment = matchAt(COMMENT, text, at);
    const string = matchAt(STRING, text, at);
    const endsExpression = character === "}" && templates.at(-1) === depth;
    const template = character === "`" || endsExpression ? matchAt(TEMPLATE_PART, text, at) : undefined;
    if (comment !== undefined) {
      code += blank(comment);
      comments += comment;
    } else if (string !== undefined) {
      take(string, string.charAt(0) + blank(string.slice(1, -1)) + string.charAt(0));
    } else if (template !== undefined) {
      if (endsExpression) templates.pop();
      if (template.endsWith("${")) templates.push(depth);
      take(template, blank(template));
    } else if (character === "/" && (!OPERAND.test(code.slice(-20)) || OPERATOR_WORD.test(code.slice(-20)))) {
      const expression = matchAt(REGULAR_EXPRESSION, text, at) ?? character;
      take(expression, blank(expression));
    } else {
      if (character === "{") depth += 1;
      if (character === "}") depth -= 1;
      take(character, character);
    }
  }
  return { code, comments };
}

export function lineAt(text: string, offset: number): number {
  return text.slice(0, offset).split("\n").length;
}

export interface Import {
  /** As written: `./clock.ts`, `node:fs`. */
  readonly specifier: string;
  readonly line: number;
}

/** Static, re-exporting, dynamic and type imports, and the files that a worker or process starts from. */
export function findImports(text: string, { code }: MaskedSource): readonly Import[] {
  const opening = /(?:\bfrom|\bimport|\bimport\s*\(|\bnew\s+URL\s*\()\s*(["'])/g;
  return [...code.matchAll(opening)].map((match) => {
    const start = match.index + match[0].length;
    return { specifier: text.slice(start, code.indexOf(match[1]!, start)), line: lineAt(code, start) };
  });
}

export interface FunctionSpan {
  readonly line: number;
  /** From the line that opens the body to the one that closes it; the test suites in it do not count. */
  readonly lines: number;
}

/** Functions with a body in braces, inner ones before outer ones. The callbacks of `describe` are suites instead. */
export function findFunctions({ code }: MaskedSource): readonly FunctionSpan[] {
  const functions: FunctionSpan[] = [];
  const open: { line: number; kind: "function" | "suite" | "other"; suiteLines: number }[] = [];
  for (const { 0: brace, index } of code.matchAll(/[{}]/g)) {
    const line = lineAt(code, index);
    if (brace === "{") {
      open.push({ line, kind: kindOf(code.slice(0, index).trimEnd()), suiteLines: 0 });
      continue;
    }
    const block = open.pop();
    if (block === undefined) continue;
    const lines = line - block.line + 1 - block.suiteLines;
    if (block.kind === "function") functions.push({ line: block.line, lines });
    const outer = open.at(-1);
    if (outer !== undefined) outer.suiteLines += block.kind === "suite" ? lines + block.suiteLines : block.suiteLines;
  }
  return functions;
}

/** What the block after `head` is. */
function kindOf(head: string): "function" | "suite" | "other" {
  if (head.endsWith("=>")) return /\bdescribe\b[^;{}]*$/.test(head) ? "suite" : "function";
  const end = head.endsWith(")") ? head.length - 1 : endOfParameters(head);
  if (end === undefined) return "other";
  const opening = openingOf(head, end);
  return /\b(?:if|for|while|switch|catch|await)\s*$/.test(head.slice(0, opening)) ? "other" : "function";
}

/** Where the `)` before a return type stands: `…): Type`. */
function endOfParameters(head: string): number | undefined {
  for (let at = head.length - 1; at >= 0 && head.charAt(at) !== ";"; at -= 1) {
    const character = head.charAt(at);
    if (character === "{" || character === "(") return undefined;
    if (character === ":" && /\)\s*$/.test(head.slice(0, at))) {
      const isType = !/\b(?:class|interface|namespace|const|let|export|return)\b/.test(head.slice(at));
      return isType ? head.lastIndexOf(")", at) : undefined;
    }
    if (character === "}" || character === ")") at = openingOf(head, at);
  }
  return undefined;
}

/** Where the bracket that closes at `end` opens; 0 where it does not. */
function openingOf(text: string, end: number): number {
  let depth = 0;
  for (let at = end; at > 0; at -= 1) {
    if (")}]".includes(text.charAt(at))) depth += 1;
    if ("({[".includes(text.charAt(at))) depth -= 1;
    if (depth === 0) return at;
  }
  return 0;
}
