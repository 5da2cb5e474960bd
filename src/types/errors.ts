/**
 * @file Operating errors. Each class has a stable `name`, the exit code of the command that meets it, one line of cause
 * (`message`) and one line of remedy. A programmer's error is an assertion instead.
 */

export const ExitCode = { done: 0, unexpected: 1, usage: 2, data: 3, network: 4, lost: 5, interrupted: 130 } as const;
export type ExitCode = (typeof ExitCode)[keyof typeof ExitCode];

export abstract class RingTmpError extends Error {
  abstract readonly exitCode: ExitCode;
  readonly remedy: string;

  constructor(message: string, remedy: string, options?: ErrorOptions) {
    super(message, options);
    this.remedy = remedy;
    this.name = new.target.name;
  }
}

/** A flag, a value or a combination that cannot be run. */
export class UsageError extends RingTmpError {
  readonly exitCode = ExitCode.usage;
}

/** Data or a checkpoint that is missing, torn or wrong. */
export class DataError extends RingTmpError {
  readonly exitCode = ExitCode.data;
}

/** A peer that cannot be reached, or that does not admit us. */
export class NetworkError extends RingTmpError {
  readonly exitCode = ExitCode.network;
}

/** A frame that breaks the protocol: the connection is closed with this reason. */
export class ProtocolError extends NetworkError {}

/** A node is gone, and what it held with it. */
export class NodeLostError extends RingTmpError {
  readonly exitCode = ExitCode.lost;
}

/** The arithmetic left the finite numbers: the step and the layer are in the message. */
export class NotFiniteError extends RingTmpError {
  readonly exitCode = ExitCode.unexpected;
}

/** The user ended the run. */
export class InterruptedError extends RingTmpError {
  readonly exitCode = ExitCode.interrupted;
}
