/**
 * @file The part of the WebAssembly JavaScript interface that the engine uses. TypeScript ships it with the browser's
 * types alone, which must not reach this project. Source: https://webassembly.github.io/spec/js-api/
 */
declare namespace WebAssembly {
  class Memory {
    constructor(descriptor: { initial: number; maximum: number; shared: true });
    readonly buffer: SharedArrayBuffer;
    /** Adds pages of 64 KiB; returns the number before. Throws RangeError beyond the maximum. */
    grow(pages: number): number;
  }
  class Module {
    constructor(code: Uint8Array);
  }
  class Instance {
    constructor(module: Module, imports: Record<string, Record<string, unknown>>);
    readonly exports: Record<string, unknown>;
  }
  function validate(code: Uint8Array): boolean;
}
