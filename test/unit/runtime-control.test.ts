/** @file The local control socket: answers, clients that misbehave, servers that do, and files of processes that are gone. */
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { createConnection, createServer, type Server } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import {
  ask,
  entryFor,
  isAlive,
  isJob,
  isStopped,
  runningNodes,
  serveControl,
  signalNode,
  type ControlRequest,
  type NodeEntry,
} from "../../src/runtime/process-control.ts";
import { UsageError } from "../../src/types/errors.ts";

const before = process.env["XDG_RUNTIME_DIR"];
let base: string;
const cleanups: (() => unknown)[] = [];
beforeEach(() => {
  base = mkdtempSync(join(tmpdir(), "rt-"));
  process.env["XDG_RUNTIME_DIR"] = base;
});
afterEach(() => {
  for (const cleanup of cleanups.splice(0)) cleanup();
  if (before === undefined) delete process.env["XDG_RUNTIME_DIR"];
  else process.env["XDG_RUNTIME_DIR"] = before;
  rmSync(base, { recursive: true, force: true });
});

const entry = (node: number, changes: Partial<NodeEntry> = {}): NodeEntry => ({
  ...entryFor({ job: "ab12", name: "night", system: "ring", out: "/runs/a", node, startedMs: 5 }),
  ...changes,
});
const folderOf = (one: NodeEntry): string => join(one.socket, "..");

async function serve(one: NodeEntry, asked: ControlRequest[] = []): Promise<void> {
  const server = await serveControl(one, (request) => {
    asked.push(request);
    return { request, step: 7 };
  });
  cleanups.push(() => server.close());
}

/** What a raw client gets before the server hangs up. */
function exchange(one: NodeEntry, ...parts: readonly (string | Buffer)[]): Promise<string> {
  return new Promise((done) => {
    const socket = createConnection(one.socket);
    let text = "";
    socket.on("connect", () => {
      for (const part of parts) socket.write(part);
    });
    socket.on("data", (part: Buffer) => (text += part.toString()));
    socket.on("error", () => {});
    socket.on("close", () => done(text));
  });
}

/** A process that is surely gone. */
function deadPid(): number {
  const { pid } = spawnSync(process.execPath, ["-e", ""]);
  expect(isAlive(pid)).toBe(false);
  return pid;
}

describe("a node", () => {
  test("answers status and stop, closed to other users, and leaves nothing behind", async () => {
    const asked: ControlRequest[] = [];
    const one = entry(0);
    const server = await serveControl(one, (request) => {
      asked.push(request);
      return { request };
    });
    expect(await ask(one, "status")).toEqual({ request: "status" });
    expect(await ask(one, "stop")).toEqual({ request: "stop" });
    expect(asked).toEqual(["status", "stop"]);
    expect(statSync(one.socket).mode & 0o777).toBe(0o600);
    expect(statSync(folderOf(one)).mode & 0o777).toBe(0o700);
    expect(runningNodes()).toEqual([one]);
    server.close();
    expect(readdirSync(folderOf(one))).toEqual([]);
    expect(await ask(one, "status")).toBeUndefined();
  });

  test("takes the place of a socket that a killed process left", async () => {
    const one = entry(0);
    writeFileSync(one.socket, "");
    await serve(one);
    expect(await ask(one, "status")).toMatchObject({ step: 7 });
  });

  test("hangs up on garbage, on too much, and on nothing in time; the next client is served", async () => {
    const asked: ControlRequest[] = [];
    const one = entry(0);
    await serve(one, asked);
    expect(await exchange(one, "format disk\n")).toBe("");
    expect(await exchange(one, Buffer.from([0xff, 0xfe, 0x00, 0x0a]))).toBe("");
    expect(await exchange(one, "\n")).toBe("");
    expect(await exchange(one, "x".repeat(200_000))).toBe("");
    // Silence: the server's limit ends it.
    expect(await exchange(one)).toBe("");
    expect(await exchange(one, "sta")).toBe("");
    expect(asked).toEqual([]);
    expect(await exchange(one, "sta", "tus\n")).toBe('{"request":"status","step":7}\n');
  });
});

describe("a question has no answer", () => {
  async function listen(one: NodeEntry, say: string): Promise<void> {
    const server: Server = createServer((socket) => {
      socket.on("error", () => {});
      socket.on("data", () => socket.end(say));
    });
    await new Promise<void>((done) => server.listen(one.socket, () => done()));
    cleanups.push(() => server.close());
  }

  test.each([
    ["torn", '{"step":1'],
    ["no JSON", "hello\n"],
    ["nothing", ""],
    ["endless", "1".repeat(20_000_000)],
  ])("where what comes is %s", async (_, say) => {
    const one = entry(0);
    await listen(one, say);
    expect(await ask(one, "status")).toBeUndefined();
  });

  test("where the process accepts and then says nothing", async () => {
    const one = entry(0);
    const server = createServer(() => {});
    await new Promise<void>((done) => server.listen(one.socket, () => done()));
    cleanups.push(() => server.close());
    const startMs = performance.now();
    expect(await ask(one, "status")).toBeUndefined();
    expect(performance.now() - startMs).toBeLessThan(3_000);
  });
});

describe("running nodes", () => {
  test("come in the order in which their jobs began, then by number; files of dead processes are removed", async () => {
    const [b1, b0, a0] = [
      entry(1),
      entry(0),
      entry(0, { job: "cd34", socket: entry(0).socket.replace("ab12", "cd34"), startedMs: 1 }),
    ];
    for (const one of [b1, b0, a0]) await serve(one);
    const dead = entry(2, { pid: deadPid() });
    writeFileSync(dead.socket, "");
    writeFileSync(dead.socket.replace(/sock$/, "json"), JSON.stringify(dead));
    expect(runningNodes()).toEqual([a0, b0, b1]);
    expect(existsSync(dead.socket)).toBe(false);
    expect(readdirSync(folderOf(dead)).filter((name) => name.includes("-2."))).toEqual([]);
  });

  test.each(["", "{", "null", "[]", "{}", "7", '{"pid":"x"}', '{"pid":1}'])(
    "do not include a file that says %j",
    (text) => {
      writeFileSync(join(folderOf(entry(0)), "zz-0.json"), text);
      expect(runningNodes()).toEqual([]);
    },
  );

  test("are not looked for in a folder that others can write to, or that is a link", () => {
    const folder = folderOf(entry(0));
    chmodSync(folder, 0o777);
    expect(() => runningNodes()).toThrow(UsageError);
    rmSync(folder, { recursive: true });
    mkdirSync(join(base, "elsewhere"), { mode: 0o700 });
    symlinkSync(join(base, "elsewhere"), folder);
    expect(() => runningNodes()).toThrow(UsageError);
  });
});

test("a job is found by id, by name, by its folder, also over a link", () => {
  const out = join(base, "out");
  mkdirSync(out);
  symlinkSync(out, join(base, "link"));
  const one = entry(0, { out });
  for (const wanted of ["ab12", "night", out, `${out}/`, join(base, "link")])
    expect(isJob(one, wanted), wanted).toBe(true);
  for (const wanted of ["ab", "", base, "nights"]) expect(isJob(one, wanted), wanted).toBe(false);
});

test("this process is alive", () => {
  expect(isAlive(process.pid)).toBe(true);
});

describe("orders", () => {
  test.each(["leave", "cut 12D3KooWabc", "mend 12D3KooWabc"] as const)("%s arrives", async (request) => {
    const [one, asked] = [entry(0), [] as ControlRequest[]];
    await serve(one, asked);
    expect(await ask(one, request)).toEqual({ request, step: 7 });
    expect(asked).toEqual([request]);
  });

  test.each(["cut", "cut ", "cut ../x", `mend ${"a".repeat(101)}`, "leave 2", "stop now"])(
    "%j does not",
    async (text) => {
      const [one, asked] = [entry(0), [] as ControlRequest[]];
      await serve(one, asked);
      expect(await exchange(one, `${text}\n`)).toBe("");
      expect(asked).toEqual([]);
    },
  );
});

test.skipIf(!existsSync("/proc/self/stat"))(
  "signals go to the process that wrote the entry, never to one that got its number",
  async () => {
    const child = spawn(process.execPath, ["-e", "setInterval(() => {}, 1000)"]);
    cleanups.push(() => child.kill("SIGKILL"));
    await once(child, "spawn");
    const stat = readFileSync(`/proc/${child.pid}/stat`, "utf8");
    const born = stat.slice(stat.lastIndexOf(")") + 2).split(" ")[19]!;
    const own = entry(0, { pid: child.pid!, born });
    const former = entry(1, { pid: child.pid!, born: "1" });
    expect(signalNode(former, "SIGKILL")).toBe(false);
    expect(signalNode(own, "SIGSTOP")).toBe(true);
    await expect.poll(() => isStopped(own)).toBe(true);
    expect(signalNode(own, "SIGCONT")).toBe(true);
    await expect.poll(() => isStopped(own)).toBe(false);
    for (const one of [own, former]) writeFileSync(one.socket.replace(/\.sock$/, ".json"), JSON.stringify(one));
    expect(runningNodes().map(({ node }) => node)).toEqual([0]);
    expect(signalNode(own, "SIGKILL")).toBe(true);
    await once(child, "exit");
    expect(signalNode(own, "SIGKILL")).toBe(false);
  },
);
