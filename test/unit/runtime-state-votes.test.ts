/** @file What a node must not forget: its votes and the step that it reported, under every damage and fault of the disk. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { GROUP_MS, ReportedStep } from "../../src/runtime/reported-step.ts";
import { StateFolder } from "../../src/runtime/state-folder.ts";
import { VOTE_BYTES_MAX, VoteStore } from "../../src/runtime/vote-store.ts";
import { DataError } from "../../src/types/errors.ts";
import { RandomStream } from "../../src/types/random.ts";
import { damages, diskFault, FaultyDisk, refusal, WRITE_ORDER } from "../helpers/faulty-disk.ts";
import { freshSeed } from "../helpers/segments.ts";

let root: string;
let path: string;
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "ringtmp-state-"));
  path = join(root, "state");
});
afterEach(() => rmSync(root, { recursive: true, force: true }));

/** Opens, works, closes. */
async function withState<T>(work: (folder: StateFolder) => Promise<T>): Promise<T> {
  const folder = await StateFolder.open(path);
  try {
    return await work(folder);
  } finally {
    await folder.close();
  }
}

describe("the votes", () => {
  const load = (): Promise<VoteStore> => withState((folder) => VoteStore.open(folder));

  test("are none at first, and then the last one saved", async () => {
    expect(await load()).toMatchObject({ loaded: undefined, damaged: [] });
    await withState(async (folder) => {
      const store = await VoteStore.open(folder);
      for (const ballot of [1, 2, 3]) await store.save({ ballot, accepted: null });
    });
    expect(await load()).toMatchObject({ loaded: { ballot: 3, accepted: null }, damaged: [] });
  });

  test("survive any damage to one slot, which is named and mended", async () => {
    await withState(async (folder) => (await VoteStore.open(folder)).save({ ballot: 7 }));
    for (const slot of ["vote.0", "vote.1"]) {
      const file = join(path, slot);
      const bytes = readFileSync(file);
      for (const { name, damaged } of damages(bytes)) {
        writeFileSync(file, damaged);
        const { loaded, damaged: named } = await load();
        expect(loaded, name).toEqual({ ballot: 7 });
        expect(named, name).toEqual([expect.stringContaining(`${slot} is damaged at offset`)]);
        expect(readFileSync(file).equals(bytes), name).toBe(true);
      }
    }
  }, 60_000);

  test("that are damaged in both slots stop the node", async () => {
    await withState(async (folder) => (await VoteStore.open(folder)).save({ ballot: 7 }));
    for (const slot of ["vote.0", "vote.1"]) writeFileSync(join(path, slot), "");
    expect((await refusal(load(), DataError)).message).toContain("vote.0 is damaged at offset 0, in sequence");
    rmSync(join(path, "vote.1"));
    await refusal(load(), DataError);
  });

  test("after a crash between the slots, the newer one counts and is in both", async () => {
    await withState(async (folder) => {
      const store = await VoteStore.open(folder);
      await store.save("old");
      const old = readFileSync(join(path, "vote.0"));
      await store.save("new");
      writeFileSync(join(path, "vote.0"), old);
    });
    expect(await load()).toMatchObject({ loaded: "new", damaged: [] });
    writeFileSync(join(path, "vote.1"), "");
    expect((await load()).loaded).toBe("new");
  });

  test.each(WRITE_ORDER)("that a fault at %s keeps from either slot are not saved; later ones are", async (at) => {
    for (const slot of ["vote.0", "vote.1"]) {
      rmSync(path, { recursive: true, force: true });
      await withState(async (folder) => {
        const disk = new FaultyDisk();
        const store = await VoteStore.open(folder, disk);
        await store.save("first");
        let isFaulty = true;
        // The folder's operations name no slot: the first of them fails.
        disk.before = (operation, file) => {
          if (!isFaulty || operation !== at) return;
          if (file !== path && !file.includes(slot)) return;
          isFaulty = false;
          throw diskFault("EIO");
        };
        expect((await refusal(store.save("second"), DataError)).message).toContain("EIO");
        expect(isFaulty).toBe(false);
        expect(["first", "second"]).toContain((await VoteStore.open(folder)).loaded);
        await store.save("third");
        expect((await VoteStore.open(folder)).loaded).toBe("third");
      });
    }
  });

  test("are durable when the promise resolves: neither slot is waited for in vain", async () => {
    await withState(async (folder) => {
      const disk = new FaultyDisk();
      const store = await VoteStore.open(folder, disk);
      await store.save({ ballot: 1 });
      expect(disk.begun.toSorted()).toEqual([...WRITE_ORDER, ...WRITE_ORDER].toSorted());
      for (const slot of ["vote.0", "vote.1"]) expect(readFileSync(join(path, slot), "utf8")).toContain('{"ballot":1}');
    });
  });

  test.each([3, freshSeed])("survive a kill at any moment (seed %i)", async (seed) => {
    const random = new RandomStream(seed, 1003);
    const [state, votes] = ["state-folder", "vote-store"].map((name) =>
      JSON.stringify(new URL(`../../src/runtime/${name}.ts`, import.meta.url).pathname),
    );
    const program = `import { writeSync } from "node:fs"; import { StateFolder } from ${state}; import { VOTE_BYTES_MAX, VoteStore } from ${votes};
      const store = await VoteStore.open(await StateFolder.open(${JSON.stringify(path)}));
      for (let ballot = store.loaded ?? 0; ;) { await store.save(++ballot); writeSync(1, ballot + "\\n"); }`;
    let told = 0;
    for (let kill = 0; kill < 6; kill++) {
      const child = spawn(process.execPath, ["--input-type=module", "-e", program], {
        stdio: ["ignore", "pipe", "inherit"],
      });
      const exited = once(child, "exit");
      const last = told + 1 + random.nextBelow(30);
      for await (const lines of child.stdout.setEncoding("utf8")) {
        told = Math.max(told, ...(lines as string).split("\n").map(Number));
        // It is in the middle of a later save now; what it says until it dies still counts.
        if (told >= last) child.kill("SIGKILL");
      }
      await exited;
      const { loaded, damaged } = await load();
      expect([told, told + 1], `kill ${kill}`).toContain(loaded);
      expect(damaged).toEqual([]);
      told = loaded as number;
    }
  });

  test("are small, and saved one at a time", async () => {
    await withState(async (folder) => {
      const store = await VoteStore.open(folder);
      await expect(store.save("x".repeat(VOTE_BYTES_MAX))).rejects.toThrow(`at most ${VOTE_BYTES_MAX} bytes`);
      const first = store.save(1);
      await expect(store.save(2)).rejects.toThrow("one vote is saved at a time");
      await first;
    });
  });
});

describe("the reported step", () => {
  const heard: string[] = [];
  afterEach(() => heard.splice(0));

  function open(folder: StateFolder, fileSystem = new FaultyDisk(), job = "ab"): Promise<ReportedStep> {
    const onDurable = (step: number): void => void heard.push(`durable ${step}`);
    const onFault = (step: number, { message }: DataError): void =>
      void heard.push(`fault since ${step}: ${message.slice(-9)}`);
    return ReportedStep.open({ folder, job, onDurable, onFault, fileSystem });
  }

  test("is the highest one noted, in few writes", async () => {
    const begun = performance.now();
    const disk = new FaultyDisk();
    await withState(async (folder) => {
      const reported = await open(folder, disk);
      expect(reported.durable).toBe(-1);
      for (let step = 0; step < 1000; step++) {
        reported.note(step);
        if (step % 100 === 99) await new Promise((done) => setImmediate(done));
      }
      reported.note(3);
      await reported.close();
      expect(reported.durable).toBe(999);
      expect(heard.at(-1)).toBe("durable 999");
    });
    const writes = disk.begun.filter((operation) => operation === "rename").length;
    expect(writes).toBe(new Set(heard).size);
    expect(writes).toBeLessThanOrEqual(1 + (performance.now() - begun) / GROUP_MS);
    expect((await withState(open)).durable).toBe(999);
  });

  test("of another job counts for nothing, and what the disk has already may be told at once", async () => {
    await withState(async (folder) => {
      const reported = await open(folder);
      reported.note(12);
      await reported.close();
      heard.splice(0);
      reported.note(7);
      expect(heard).toEqual(["durable 12"]);
    });
    const other = await withState((folder) => open(folder, new FaultyDisk(), "cd"));
    expect(other.durable).toBe(-1);
  });

  test("is told only when it is on the disk", async () => {
    await withState(async (folder) => {
      const disk = new FaultyDisk();
      const gate = Promise.withResolvers<void>();
      const reached = Promise.withResolvers<void>();
      disk.before = (operation) => {
        if (operation !== "syncFolder") return undefined;
        reached.resolve();
        return gate.promise;
      };
      const reported = await open(folder, disk);
      reported.note(4);
      await reached.promise;
      expect(heard).toEqual([]);
      gate.resolve();
      await reported.close();
      expect(heard).toEqual(["durable 4"]);
    });
  });

  test("that cannot be written is told once, and comes back when the disk does", async () => {
    await withState(async (folder) => {
      const disk = new FaultyDisk();
      const reported = await open(folder, disk);
      reported.note(2);
      await reported.close();
      disk.before = (operation) => {
        if (operation === "sync") throw diskFault("EIO");
      };
      for (const step of [3, 4, 4]) {
        reported.note(step);
        await reported.close();
        expect(reported.notDurableSince).toBe(3);
        expect(reported.durable).toBe(2);
      }
      expect(disk.begun.filter((operation) => operation === "sync")).toHaveLength(4);
      disk.before = () => {};
      reported.note(4);
      await reported.close();
      expect(reported.notDurableSince).toBe(null);
      expect(heard).toEqual(["durable 2", "fault since 3: i/o error", "durable 4"]);
    });
  });

  test("that is damaged anywhere stops the node, with the file's name", async () => {
    await withState(async (folder) => {
      const reported = await open(folder);
      reported.note(12);
      await reported.close();
    });
    const file = join(path, "reported");
    for (const { name, damaged } of damages(readFileSync(file))) {
      writeFileSync(file, damaged);
      expect((await refusal(withState(open), DataError)).message, name).toMatch(/reported is damaged at offset \d+/);
    }
  });
});
