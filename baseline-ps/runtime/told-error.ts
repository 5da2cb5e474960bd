/** @file An error as one process tells it to another. */
import * as errors from "../../src/types/errors.ts";

export interface Failure {
  readonly name: string;
  readonly message: string;
  readonly remedy: string;
}

const CLASSES = [errors.UsageError, errors.DataError, errors.NetworkError, errors.NodeLostError, errors.NotFiniteError];

export function failureOf(error: unknown): Failure {
  const { name, message } = error instanceof Error ? error : new Error(String(error));
  const remedy = error instanceof errors.RingTmpError ? error.remedy : "this is a bug: please report it, with the logs";
  return { name, message: message.slice(0, 4000), remedy: remedy.slice(0, 4000) };
}

/** Of the same class where it is one of ours. */
export function toldError({ name, message, remedy }: Failure): Error {
  const Operating = CLASSES.find((known) => known.name === name);
  return Operating === undefined ? new Error(message) : new Operating(message, remedy);
}
