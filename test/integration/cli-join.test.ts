/** @file Nodes that join a ring from elsewhere: through the founder or a member, from another folder, from another network. */
import { readdirSync, readFileSync } from "node:fs";
import { spawnSync } from "node:child_process";
import { afterAll, expect, test } from "vitest";
import { CommandLine, SMALL, until, type Running } from "../helpers/cli.ts";

const LIMIT_MS = 120_000;
/** Strangers are refused, and whoever comes when the ring is whole. */
const CLOSED = ["--invite", "secret", "--replicas", "0"] as const;
const JOB = [...SMALL, "--steps", "10", "--orphans", "end", "--json"] as const;

/** The first address that a founder prints for others to join through. */
async function printedAddress(founder: Running, pattern = /\/ip4\/127\S+/): Promise<string> {
  const join = new RegExp(`ringtmp join (${pattern.source})`);
  await until(() => join.test(founder.stderr) || founder.process.exitCode !== null, "an address to join");
  const address = join.exec(founder.stderr)?.[1];
  if (address === undefined) throw new Error(founder.stderr);
  return address;
}

/** Where the local node number `node` listens, from its log. */
async function memberAddress(cli: CommandLine, out: string, node: number, host: string): Promise<string> {
  const find = (): string | undefined => {
    const logs = readdirSync(cli.file(out, "logs"));
    if (!logs.includes(`node-${node}.log`)) return undefined;
    const lines = readFileSync(cli.file(out, "logs", `node-${node}.log`), "utf8");
    return new RegExp(`/ip4/${host}/[^"]+`).exec(lines)?.[0];
  };
  await until(() => find() !== undefined, "the member's address");
  return find() as string;
}

function expectSameResults(cli: CommandLine, ...outs: readonly string[]): void {
  for (const out of outs) {
    expect(cli.json(out, "summary.json")).toEqual(cli.json(outs[0] as string, "summary.json"));
    expect(cli.json(out, "config.json")).toEqual(cli.json(outs[0] as string, "config.json"));
    const curve = (folder: string) => cli.lines(folder, "metrics.jsonl").map(({ step, loss }) => ({ step, loss }));
    expect(curve(out)).toEqual(curve(outs[0] as string));
    expect(curve(out)).toHaveLength(10);
  }
}

test(
  "through the founder and through another member, each with a folder of its own",
  async () => {
    await using cli = new CommandLine();
    const founder = cli.start(
      "up",
      "-n",
      "4",
      "--local",
      "2",
      "--model",
      "mlp:784-24-16-12-10",
      ...JOB.slice(2),
      "--out",
      "founder",
    );
    const address = await printedAddress(founder);
    const member = await memberAddress(cli, "founder", 1, "127.0.0.1");
    expect(member).not.toBe(address);
    await until(() => founder.stderr.includes("2 of 4 nodes are here"), "the member's place");
    const first = cli.start("join", address, "--out", "first", "--json", "--steps", "10", "--lr", "0.001");
    const second = cli.start("join", member, "--out", "second", "--json");
    const ends = await Promise.all([founder.ended, first.ended, second.ended]);
    expect(ends.map(({ code, stderr }) => (code === 0 ? code : stderr))).toEqual([0, 0, 0]);
    expectSameResults(cli, "founder", "first", "second");
    for (const { stdout } of ends) expect(JSON.parse(stdout)).toEqual(cli.json("founder", "summary.json"));
    const serial = await cli.train(
      "--system",
      "serial",
      "--config",
      "founder/config.json",
      ...["-n", "1", "--replicas", "0", "--out", "serial"],
    );
    expect(cli.json("founder", "summary.json")["weightsSha256"]).toBe(serial["weightsSha256"]);
    const timelines = ["founder", "first", "second"].map((out) => readdirSync(cli.file(out, "timeline")).length);
    expect(timelines).toEqual([2, 1, 1]);
  },
  LIMIT_MS,
);

test(
  "refusals: each names what is wrong, costs the joiner nothing, and leaves the place free",
  async () => {
    await using cli = new CommandLine();
    await cli.train("--system", "serial", ...SMALL, "--steps", "1", "--out", "earlier");
    const earlier = cli.json("earlier", "summary.json");
    const founder = cli.start("up", "-n", "2", "--local", "1", ...CLOSED, ...JOB, "--out", "founder");
    const address = await printedAddress(founder);
    expect(founder.stderr).toMatch(
      /waiting for 1 more node; on each machine run one of:\n {2}ringtmp join \S+ --invite secret\n/,
    );
    const invited = [address, "--invite", "secret", "--out", "earlier"] as const;
    const otherPeer = address.replace(/[^/]+$/, "12D3KooWGzBUFQWNVGgNiUzpiKQsSRFNg2xSEAbSVzHCVzuLTTfN");
    const cases = [
      [4, /the invite token/, [address, "--invite", "guess"]],
      [4, /the invite token/, [address]],
      [4, /field lr: the job has --lr 0.001, not 0.5/, [...invited, "--force", "--lr", "0.5", "--seed", "9"]],
      [
        4,
        /field model: the job has --model mlp:784-24-16-10, not mlp:784-10/,
        [...invited, "--force", "--model", "mlp:784-10"],
      ],
      [4, /another peer answers at/, [otherPeer, "--invite", "secret"]],
      [2, /--out \S+ holds another run/, [...invited]],
      [2, /--lr "fast": a number above 0/, [...invited, "--lr", "fast"]],
    ] as const;
    for (const [code, cause, flags] of cases) {
      const ended = await cli.run("join", ...flags);
      expect(ended.stderr).toMatch(cause);
      expect(ended.stderr).toMatch(/^(\d of 2 nodes are here\n)?error: [^\n]+\n {2}fix: [^\n]+\n$/);
      expect(ended.code).toBe(code);
    }
    expect(cli.json("earlier", "summary.json")).toEqual(earlier);
    const joiner = cli.start("join", address, "--invite", "secret", "--out", "joiner", "--json");
    await until(() => joiner.stderr.includes("node 1 of job"), "the joiner's place");
    const late = await cli.run("join", address, "--invite", "secret", "--out", "late");
    // The ring may be whole, or have ended in the meantime.
    expect(late.stderr).toMatch(/the ring is whole \(2 of 2 nodes\)|nothing listens there|closed the/);
    expect(late.code).toBe(4);
    expect((await founder.ended).code).toBe(0);
    expect((await joiner.ended).code).toBe(0);
    expectSameResults(cli, "founder", "joiner");
  },
  LIMIT_MS,
);

const NETWORK = `ringtmp${process.pid}`;
const [HERE, THERE] = [`${NETWORK}a`, `${NETWORK}b`];

const TOOL = "ip";
function ip(...parameters: readonly string[]): boolean {
  return spawnSync(TOOL, parameters).status === 0;
}

/** Two machines on one cable, where this user may lay one. */
function layCable(): boolean {
  if (process.getuid?.() !== 0 || !ip("netns", "add", HERE)) return false;
  const commands = [
    ["netns", "add", THERE],
    ["link", "add", "veth0", "netns", HERE, "type", "veth", "peer", "name", "veth0", "netns", THERE],
    ...[HERE, THERE].flatMap((name, index) => [
      ["-n", name, "addr", "add", `10.77.0.${index + 1}/24`, "dev", "veth0"],
      ["-n", name, "link", "set", "lo", "up"],
      ["-n", name, "link", "set", "veth0", "up"],
    ]),
  ];
  return commands.every((command) => ip(...command));
}

const hasCable = layCable();
afterAll(() => {
  for (const name of [HERE, THERE]) ip("netns", "del", name);
});

test.skipIf(!hasCable)(
  "over a cable: two nodes here, one in another network namespace, which joins through a member",
  async () => {
    await using cli = new CommandLine();
    const within = (name: string, ...parameters: readonly string[]): Running =>
      cli.spawn(["ip", "netns", "exec", name, ...CommandLine.command(parameters)]);
    const founder = within(HERE, "up", "-n", "3", "--local", "2", ...JOB, "--out", "founder");
    await printedAddress(founder, /\/ip4\/10\.77\S+/);
    // The member knows the founder by an address that leads nowhere from there.
    const address = await memberAddress(cli, "founder", 1, "10.77.0.1");
    await until(() => founder.stderr.includes("2 of 3 nodes are here"), "the member's place");
    const joiner = within(THERE, "join", address, "--out", "joiner", "--json");
    for (const command of [joiner, founder]) {
      const { code, stderr } = await command.ended;
      expect(code, stderr).toBe(0);
    }
    expectSameResults(cli, "founder", "joiner");
  },
  LIMIT_MS,
);
