/** @file How a command ends when something is wrong: one line of cause, one line of remedy, the exit code of the error. */
import type { CommanderError } from "commander";
import { ExitCode, RingTmpError } from "../types/errors.ts";

/** An error as another process can tell it. */
export interface ToldError {
  readonly name: string;
  readonly message: string;
  readonly remedy: string;
  readonly exitCode: number;
  readonly stack: string;
}

/** A command that ends with an error that another process told. */
export class ToldFailure extends Error {
  readonly told: ToldError;

  constructor(told: ToldError) {
    super(told.message);
    this.told = told;
  }
}

export function tellError(error: unknown, log: string | undefined): ToldError {
  if (error instanceof RingTmpError) {
    const { name, message, remedy, exitCode, stack = "" } = error;
    return { name, message, remedy, exitCode, stack };
  }
  const { name, message, stack = "" } = error instanceof Error ? error : new Error(String(error));
  const where = log === undefined ? "run it again with --debug for the stack" : `the log is ${log}`;
  return {
    name,
    message: `unexpected: ${name}: ${message}`,
    remedy: `this is a bug: please report it; ${where}`,
    exitCode: ExitCode.unexpected,
    stack,
  };
}

/** A command line that cannot be read, which commander tells as `error: cause`, sometimes with a guess in brackets below. */
export function tellMisuse({ message, code, stack = "" }: CommanderError, argv: readonly string[]): ToldError {
  const [cause = "", guess] = message.split("\n");
  const help =
    code === "commander.unknownCommand"
      ? "ringtmp --help lists every command"
      : `ringtmp ${argv.find((argument) => !argument.startsWith("-")) ?? ""} --help lists what there is`;
  const meant = guess?.replace(/^\((?:Did you mean )?(.*?)\)$/, "did you mean $1 ");
  return {
    name: "UsageError",
    message: cause.replace(/^error: /, ""),
    remedy: `${meant ?? ""}${help}`.replaceAll("  ", " "),
    exitCode: ExitCode.usage,
    stack,
  };
}

/** Returns the exit code. */
export function printError(error: ToldError, debug: boolean): number {
  process.stderr.write(`error: ${error.message}\n`);
  process.stderr.write(`  fix: ${error.remedy}\n`);
  if (debug) process.stderr.write(`${error.stack}\n`);
  return error.exitCode;
}
