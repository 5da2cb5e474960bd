/** @file The exported kernels: names and arguments are those of `Kernels` in ../contract.ts, which documents them. */
export { matmul, matmulScratchBytes, matmulTransposedAAdd, matmulTransposedB } from "./matmul";
export { digestAdd, digestBegin, digestEnd } from "./digest";
export {
  addBias,
  copy,
  firstNotFinite,
  gelu,
  geluBackward,
  relu,
  reluBackward,
  sumRowsAdd,
  tanh,
  tanhBackward,
} from "./elementwise";
export { softmaxCrossEntropy } from "./loss";
export { adagrad, adam, momentum, sgd } from "./optimizers";
