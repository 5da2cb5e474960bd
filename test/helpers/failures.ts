/** @file What a promise failed with, for tests that look at the message and the remedy of an operating error. */
import { RingTmpError } from "../../src/types/errors.ts";

/** `Class: message`, after checking that cause and remedy are one line each. */
export async function failureOf(promise: Promise<unknown>): Promise<string> {
  const error: unknown = await promise.then(
    () => new Error("it did not fail"),
    (reason: unknown) => reason,
  );
  if (!(error instanceof RingTmpError)) throw error;
  for (const text of [error.message, error.remedy]) {
    if (!/^[^\n]+$/.test(text)) throw new Error(`not one line: ${JSON.stringify(text)}`);
  }
  return `${error.name}: ${error.message} | ${error.remedy}`;
}
