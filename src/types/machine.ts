/**
 * @file The pattern that carries every protocol: a value comes in, values go out. A machine reads no clock, draws no
 * chance and touches no socket, so the runtime and a simulator drive the same code (after etcd-io/raft).
 */

export interface Machine<In, Out> {
  handle(input: In): readonly Out[];
}
