/**
 * @file Finds, checks and instantiates the compiled kernels. A module is compiled once per process and engine; instances
 * on several threads may share one memory, since kernels keep no state of their own.
 */
import { existsSync, readFileSync } from "node:fs";
import { UsageError } from "../types/errors.ts";
import { ENGINE_KINDS, type EngineKind, type Kernels } from "./contract.ts";

const modules = new Map<EngineKind, WebAssembly.Module>();

function buildFile(kind: EngineKind): URL {
  return new URL(`./build/${kind}.wasm`, import.meta.url);
}

function compile(kind: EngineKind): WebAssembly.Module {
  const known = modules.get(kind);
  if (known !== undefined) return known;
  const file = buildFile(kind);
  if (!existsSync(file)) {
    throw new UsageError(`the kernels of engine ${kind} are not compiled`, "run `node bin/setup.cjs` once");
  }
  const code = readFileSync(file);
  if (!WebAssembly.validate(code)) {
    const remedy = kind === "wasm" ? "use `--engine wasm-exact`, or Node 24 or later" : "use Node 24 or later";
    throw new UsageError(`this Node cannot run engine ${kind}`, remedy);
  }
  const module = new WebAssembly.Module(code);
  modules.set(kind, module);
  return module;
}

/** The kernels of an engine on `memory` (shared, maximum 65536 pages). Throws UsageError where it cannot run. */
export function loadKernels(kind: EngineKind, memory: WebAssembly.Memory): Kernels {
  const { exports } = new WebAssembly.Instance(compile(kind), { env: { memory } });
  return exports as unknown as Kernels;
}

/** The engines that are compiled and that this Node runs, the fastest first. */
export function supportedEngines(): EngineKind[] {
  return ENGINE_KINDS.filter(
    (kind) => existsSync(buildFile(kind)) && WebAssembly.validate(readFileSync(buildFile(kind))),
  );
}
