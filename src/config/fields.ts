/**
 * @file Values of single settings, from a flag's text or from JSON. Every error names the field, the value and what
 * would be right.
 */
import * as z from "zod";
import { nearest } from "../types/suggest.ts";

/** A flag's text becomes a number only where all of it is one. */
function toNumber(value: unknown): unknown {
  return typeof value === "string" && /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(value.trim())
    ? Number(value)
    : value;
}

export function wholeNumber(least: number, most: number) {
  const error = `a whole number from ${least} to ${most} is needed`;
  return z.preprocess(toNumber, z.int({ error }).min(least, { error }).max(most, { error }));
}

/** A finite number above `above`, at most `most`. */
export function realNumber(above: number, most: number) {
  const error = `a number above ${above}, at most ${most}, is needed`;
  return z.preprocess(toNumber, z.number({ error }).gt(above, { error }).max(most, { error }));
}

export function oneOf<const Names extends readonly [string, ...string[]]>(names: Names) {
  return z.enum(names, {
    error: ({ input }) => `one of ${names.join(", ")} is needed; did you mean ${nearest(String(input), names)}?`,
  });
}

/** One of the values that this version runs; values of later versions are told apart from mistakes. */
export function oneOfThisVersion<const Names extends readonly [string, ...string[]]>(
  names: Names,
  later: readonly string[],
) {
  return z.enum(names, {
    error: ({ input }) =>
      later.includes(String(input))
        ? `not in this version (which has ${names.join(", ")})`
        : `one of ${names.join(", ")} is needed; did you mean ${nearest(String(input), names)}?`,
  });
}

/** A number that this version fixes. */
export function only(value: number) {
  return z.preprocess(toNumber, z.literal(value, { error: `not in this version (which has ${value} only)` }));
}

export const text = z.string({ error: "a text is needed" }).min(1, { error: "a text that is not empty is needed" });
