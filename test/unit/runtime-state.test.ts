/** @file Durable writes under every fault of the disk; the state folder's identity and lock. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { removeLeftovers, writeDurably } from "../../src/runtime/durable.ts";
import { StateFolder } from "../../src/runtime/state-folder.ts";
import { VoteStore } from "../../src/runtime/vote-store.ts";
import { DataError, UsageError } from "../../src/types/errors.ts";
import { damages, diskFault, FaultyDisk, refusal, WRITE_ORDER } from "../helpers/faulty-disk.ts";

let root: string;
let path: string;
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "ringtmp-state-"));
  path = join(root, "state");
});
afterEach(() => rmSync(root, { recursive: true, force: true }));

const hasProcFolder = existsSync("/proc/self/stat");

/** Opens, works, closes. */
async function withState<T>(work: (folder: StateFolder) => Promise<T>): Promise<T> {
  const folder = await StateFolder.open(path);
  try {
    return await work(folder);
  } finally {
    await folder.close();
  }
}

describe("a durable write", () => {
  test("goes in the order that survives a loss of power, and leaves the file alone", async () => {
    const disk = new FaultyDisk();
    await writeDurably(join(root, "x"), "content", { mode: 0o600, fileSystem: disk });
    expect(disk.begun).toEqual(WRITE_ORDER);
    expect(readdirSync(root)).toEqual(["x"]);
    expect(readFileSync(join(root, "x"), "utf8")).toBe("content");
    expect(statSync(join(root, "x")).mode & 0o777).toBe(0o600);
  });

  test.each(WRITE_ORDER.flatMap((at) => (["ENOSPC", "EIO"] as const).map((code) => ({ at, code }))))(
    "that fails with $code at $at is told, never tried again on that file, and leaves a whole one",
    async ({ at, code }) => {
      const file = join(root, "x");
      writeFileSync(file, "old");
      const disk = new FaultyDisk();
      disk.before = (operation) => {
        if (operation === at) throw diskFault(code);
      };
      const error = await refusal(writeDurably(file, "new", { fileSystem: disk }), DataError);
      expect(error.message).toContain(file);
      expect(error.message).toContain(code);
      expect(error.remedy).toMatch(/^[^\n]+$/);
      expect(disk.begun).toEqual(WRITE_ORDER.slice(0, WRITE_ORDER.indexOf(at) + 1));
      expect(readdirSync(root)).toEqual(["x"]);
      expect(readFileSync(file, "utf8")).toBe(at === "syncFolder" ? "new" : "old");
    },
  );

  test("that does not fit is not begun", async () => {
    const disk = new FaultyDisk();
    disk.statfs = (async () => ({ blocks: 10, bavail: 1, bsize: 2 })) as unknown as typeof disk.statfs;
    const error = await refusal(writeDurably(join(root, "x"), "new", { fileSystem: disk }), DataError);
    expect(error.message).toContain("3 bytes are needed, 2 are free");
    expect(disk.begun).toEqual([]);
    disk.statfs = (async () => ({ blocks: 0, bavail: 0, bsize: 2 })) as unknown as typeof disk.statfs;
    await writeDurably(join(root, "x"), "new", { fileSystem: disk });
  });

  test("leaves a temporary file in a crash, which the next start removes", async () => {
    for (const name of ["vote.0.0123456789ab.partial", "vote.0", "mine.partial"]) writeFileSync(join(root, name), "");
    await removeLeftovers(root);
    expect(readdirSync(root)).toEqual(["mine.partial", "vote.0"]);
  });
});

describe("the identity", () => {
  test("is made with the folder, for this user alone, and stays", async () => {
    const first = await withState(async ({ identity }) => identity);
    expect(first.seed).toHaveLength(32);
    expect(first.incarnation).toMatch(/^[0-9a-f]{32}$/);
    expect(statSync(path).mode & 0o777).toBe(0o700);
    expect(statSync(join(path, "identity.key")).mode & 0o777).toBe(0o600);
    expect(await withState(async ({ identity }) => identity)).toEqual(first);
    rmSync(path, { recursive: true });
    const other = await withState(async ({ identity }) => identity);
    expect(other.incarnation).not.toBe(first.incarnation);
    expect(other.seed).not.toEqual(first.seed);
  });

  test("that is damaged anywhere is named and never replaced", async () => {
    await withState(async () => {});
    const file = join(path, "identity.key");
    const bytes = readFileSync(file);
    for (const { name, damaged } of damages(bytes)) {
      writeFileSync(file, damaged);
      const { message } = await refusal(StateFolder.open(path), DataError);
      expect(message, name).toMatch(
        /identity\.key is damaged at offset \d+(, in (format|seed|incarnation)|: bytes after)/,
      );
      expect(readFileSync(file).equals(damaged), name).toBe(true);
    }
    writeFileSync(file, bytes);
    await withState(async () => {});
  });

  test("names the field", async () => {
    await withState(async () => {});
    const file = join(path, "identity.key");
    const bytes = readFileSync(file);
    const lines = bytes.toString().split("\n");
    for (const [index, field] of ["format", "seed", "incarnation"].entries()) {
      const damaged = Buffer.from(bytes);
      const offset = lines.slice(0, index).reduce((sum, line) => sum + line.length + 1, 0);
      damaged[offset + 50]! ^= 1;
      writeFileSync(file, damaged);
      const { message } = await refusal(StateFolder.open(path), DataError);
      expect(message).toContain(`damaged at offset ${offset}, in ${field}`);
    }
  });

  test("that is missing beside votes is not made anew", async () => {
    await withState(async (folder) => (await VoteStore.open(folder)).save(1));
    rmSync(join(path, "identity.key"));
    expect((await refusal(StateFolder.open(path), DataError)).message).toContain("vote.0 is there");
  });

  test("a folder that cannot be made is the user's error", async () => {
    writeFileSync(path, "a file");
    await refusal(StateFolder.open(path), UsageError);
    await refusal(StateFolder.open(join(path, "below")), UsageError);
  });
});

describe("the lock", () => {
  const children: ChildProcess[] = [];
  afterEach(() => children.splice(0).forEach((child) => child.kill("SIGKILL")));

  /** A process that opens the folder and holds it until it is killed; resolves with what it says. */
  async function otherProcess(): Promise<{ readonly child: ChildProcess; readonly said: string }> {
    const source = new URL("../../src/runtime/state-folder.ts", import.meta.url).pathname;
    const program = `import { StateFolder } from ${JSON.stringify(source)};
      setInterval(() => {}, 1000);
      try { await StateFolder.open(${JSON.stringify(path)}); console.log("held"); } catch (error) { console.log(error.message); }`;
    const child = spawn(process.execPath, ["--input-type=module", "-e", program], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    children.push(child);
    const [said] = (await once(child.stdout, "data")) as [Buffer];
    return { child, said: said.toString().trim() };
  }

  const locks = (): string[] => readdirSync(path).filter((name) => name.startsWith("lock-"));

  test("refuses this process a second time, until it is released", async () => {
    const folder = await StateFolder.open(path);
    const { message, remedy } = await refusal(StateFolder.open(path), UsageError);
    expect(message).toBe(`${path} is in use by process ${process.pid}`);
    expect(remedy).toContain(`kill ${process.pid}`);
    expect(locks()).toHaveLength(1);
    await folder.close();
    expect(locks()).toEqual([]);
    await withState(async () => {});
  });

  test("refuses the folder of a live process by its pid, and takes over that of a dead one", async () => {
    const { child, said } = await otherProcess();
    expect(said).toBe("held");
    expect((await refusal(StateFolder.open(path), UsageError)).message).toContain(`in use by process ${child.pid}`);
    expect(locks()).toHaveLength(1);
    child.kill("SIGKILL");
    await once(child, "exit");
    expect(locks()).toHaveLength(1);
    await withState(async () => expect(locks()).toEqual([expect.stringContaining(`lock-${process.pid}-`)]));
    expect(locks()).toEqual([]);
  });

  test("is held by at most one of several that start at once", async () => {
    await withState(async () => {});
    const all = await Promise.all([otherProcess(), otherProcess(), otherProcess()]);
    expect(all.filter(({ said }) => said === "held").length).toBeLessThanOrEqual(1);
    expect(locks().length).toBeLessThanOrEqual(1);
  });

  test.skipIf(!hasProcFolder)("of a dead process whose pid another one has now does not hold", async () => {
    await withState(async () => {});
    const [name] = await withState(async () => locks());
    const parent = name!.replace(`-${process.pid}-`, `-${process.ppid}-`);
    writeFileSync(join(path, parent), "");
    await withState(async () => expect(locks()).toEqual([name]));
  });

  test("leftovers of a crash are removed by whoever holds it", async () => {
    await withState(async () => {});
    writeFileSync(join(path, "vote.1.0123456789ab.partial"), "torn");
    await withState(async () => expect(readdirSync(path).filter((each) => each.endsWith("partial"))).toEqual([]));
  });
});
