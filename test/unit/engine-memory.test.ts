/** @file The engine's memory over threads, the loader, and the identity of an engine. */
import { Worker } from "node:worker_threads";
import { describe, expect, test } from "vitest";
import { ENGINE_KINDS } from "../../src/engine/contract.ts";
import { engineId } from "../../src/engine/identity.ts";
import { loadKernels, supportedEngines } from "../../src/engine/load.ts";
import { EngineMemory } from "../../src/engine/memory.ts";
import { AssertionFailed } from "../../src/types/assert.ts";
import { UsageError } from "../../src/types/errors.ts";

describe("EngineMemory", () => {
  test("arrays are zero, aligned, apart, and never at address 0", () => {
    const memory = new EngineMemory(0);
    const views = [[3], [17, 2], [], [0], [5, 5, 5]].map((shape) => memory.allocate(shape));
    expect(views.map((view) => view.length)).toEqual([3, 34, 1, 0, 125]);
    expect(views.every((view) => view.offsetBytes % 64 === 0 && view.offsetBytes > 0)).toBe(true);
    views.forEach((view, index) => {
      expect(memory.f32(view).every((value) => value === 0)).toBe(true);
      memory.f32(view).fill(index + 1);
    });
    views.forEach((view, index) => expect(memory.f32(view).every((value) => value === index + 1)).toBe(true));
  });

  test("views of one array share its bytes", () => {
    const memory = new EngineMemory(64);
    const view = memory.allocate([2]);
    memory.f32(view).set([1, -2]);
    expect([...memory.i32(view)]).toEqual([0x3f800000, 0xc0000000 | 0]);
    expect([...memory.bytes(view)]).toEqual([0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0]);
  });

  test("the same calls give the same layout, whatever was reserved before", () => {
    const layout = (memory: EngineMemory): number[] =>
      [10, 0, 64, 100_000, 1].map((size) => memory.allocateBytes(size));
    expect(layout(new EngineMemory(1 << 20))).toEqual(layout(new EngineMemory(0)));
  });

  test("grows beyond what was reserved, and older arrays stay", () => {
    const memory = new EngineMemory(0);
    const first = memory.allocate([4]);
    const values = memory.f32(first).fill(7);
    const large = memory.allocate([1 << 20]);
    expect(memory.f32(large).length).toBe(1 << 20);
    values[0] = 8;
    expect([...memory.f32(first)]).toEqual([8, 7, 7, 7]);
  });

  test("more than 4 GiB is a usage error that names both sizes, and changes nothing", () => {
    const memory = new EngineMemory(0);
    const next = memory.allocateBytes(64);
    expect(() => memory.allocate([5, 2 ** 28])).toThrow(/needs 5121 MiB .* has 4096 MiB/);
    expect(() => new EngineMemory(2 ** 32)).toThrow(UsageError);
    expect(memory.allocateBytes(64)).toBe(next + 64);
  });

  test("a shape of anything but counts is a programmer's error", () => {
    const memory = new EngineMemory(0);
    for (const size of [-1, 1.5, NaN]) expect(() => memory.allocate([size])).toThrow(AssertionFailed);
  });

  test("an array at the upper half of the memory is computed on as any other", () => {
    const memory = new EngineMemory(2 ** 31);
    memory.allocateBytes(2 ** 31);
    const view = memory.allocate([9]);
    memory.f32(view).set([1, -2, 3, -4, 5, -6, 7, -8, 9]);
    loadKernels("wasm-exact", memory.memory).relu(view.offsetBytes, view.offsetBytes, 9);
    expect([...memory.f32(view)]).toEqual([1, 0, 3, 0, 5, 0, 7, 0, 9]);
  });

  test("another thread attaches, computes the same layout, and its results are seen here", async () => {
    const memory = new EngineMemory(1 << 16);
    const x = memory.allocate([3]);
    memory.f32(x).set([1, -1, 2]);
    const source = `
      import { workerData } from "node:worker_threads";
      import { EngineMemory } from ${JSON.stringify(new URL("../../src/engine/memory.ts", import.meta.url).href)};
      import { loadKernels } from ${JSON.stringify(new URL("../../src/engine/load.ts", import.meta.url).href)};
      const memory = new EngineMemory(1 << 16, workerData);
      const x = memory.allocate([3]);
      loadKernels("wasm-exact", memory.memory).relu(x.offsetBytes, x.offsetBytes, x.length);
    `;
    const worker = new Worker(new URL(`data:text/javascript,${encodeURIComponent(source)}`), {
      workerData: memory.memory,
    });
    const code = await new Promise((resolve, reject) => worker.once("exit", resolve).once("error", reject));
    expect(code).toBe(0);
    expect([...memory.f32(x)]).toEqual([1, 0, 2]);
  });
});

describe("loadKernels", () => {
  test("both engines run here", () => {
    expect(supportedEngines()).toEqual([...ENGINE_KINDS]);
  });

  test("an engine that was not compiled is a usage error with a remedy", () => {
    const load = (): unknown => loadKernels("none" as "wasm", new EngineMemory(0).memory);
    expect(load).toThrow(UsageError);
    expect(load).toThrow(expect.objectContaining({ remedy: expect.stringContaining("setup.cjs") }));
  });

  test.each(ENGINE_KINDS)("loading %s leaves the memory as it is: kernels have no data of their own", (kind) => {
    const { memory } = new EngineMemory(0);
    const bytes = new Uint8Array(memory.buffer).fill(0xa5);
    loadKernels(kind, memory);
    expect(bytes.every((value) => value === 0xa5)).toBe(true);
  });
});

describe("engineId", () => {
  test.each(ENGINE_KINDS)("%s: a kind and 16 digits, the same again once the code is optimised", (kind) => {
    const id = engineId(kind);
    expect(id).toMatch(new RegExp(`^${kind}:[0-9a-f]{16}$`));
    // Every kernel is called often enough for the optimising compiler to take over.
    for (let round = 0; round < 200; round += 1) expect(engineId(kind)).toBe(id);
  });

  // Another id here means other results than the last version's: say so in the change log.
  test("wasm-exact has the same id on every machine", () => {
    expect(engineId("wasm-exact")).toBe("wasm-exact:efbd9aa031aa86dd");
  });
});
