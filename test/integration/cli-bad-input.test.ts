/**
 * @file What a command says of input that it cannot use: the exit code, one line of cause that names field and value, one line of
 * remedy, no stack; and that nothing is replaced or lost.
 */
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { createServer, type AddressInfo } from "node:net";
import { gzipSync } from "node:zlib";
import { describe, expect, test } from "vitest";
import { CommandLine, SMALL, type Ended } from "../helpers/cli.ts";

const LIMIT_MS = 120_000;
const SERIAL = ["train", "--system", "serial", ...SMALL, "--steps", "2", "--quiet"] as const;

/** Cause and remedy, after checking the form of all that was said. */
function expectRefusal({ code, stdout, stderr }: Ended, expectedCode: number): readonly [string, string] {
  expect(stderr).toMatch(/(^|\n)error: [^\n]+\n {2}fix: [^\n]+\n$/);
  expect(stderr).not.toMatch(/\n {4}at |undefined|\[object|unexpected:/);
  expect({ code, stdout }, stderr).toEqual({ code: expectedCode, stdout: "" });
  const [cause = "", remedy = ""] = stderr.trimEnd().split("\n").slice(-2);
  return [cause.replace("error: ", ""), remedy.replace("  fix: ", "")];
}

/** Arguments as typed, cause, remedy. */
const USAGE: readonly (readonly [string, RegExp, RegExp])[] = [
  ["up --stepz 3", /unknown option '--stepz'/, /did you mean --steps\?/],
  ["upp", /unknown command 'upp'/, /did you mean up\? ringtmp --help/],
  ["up now", /too many arguments for 'up'.*: now/, /ringtmp up --help/],
  ["join", /missing required argument 'multiaddr'/, /ringtmp join --help/],
  ["up --steps", /option '--steps <count>' argument missing/, /ringtmp up --help/],
  ["train --system rign", /--system "rign": one of ring, ps, serial is needed; did you mean ring\?/, /--system/],
  ["train --optimizer adm", /--optimizer "adm".* did you mean adam\?/, /--optimizer/],
  ["train --data digist", /unknown data set "digist"/, /did you mean "digits"\?/],
  ["why", /no job runs/, /ringtmp jobs/],
  ["why --job none", /no running job is "none"/, /ringtmp jobs/],
  ["doctor", /ringtmp doctor: not in this version/, /ringtmp --help/],
  ["kill", /missing required argument 'node'/, /ringtmp kill --help/],
  ["kill 2", /no job runs/, /ringtmp jobs/],
  ["leave 2 --job none", /no running job is "none"/, /ringtmp jobs/],
  ["cut 1", /missing required argument 'b'/, /ringtmp cut --help/],
  ["cut 1 2", /no job runs/, /ringtmp jobs/],
  ["chaos --kills three", /--kills "three": a whole number from 1 to 1000000 is needed/, /--kills 5/],
  ["chaos --kills 1.5", /--kills "1.5": a whole number/, /--kills 5/],
  ["chaos --every=-1", /--every "-1": a number from 0 to 3600 is needed/, /--every 3/],
  ["chaos --faults kil", /--faults "kil": one of kill, pair, .*, pause:SECONDS/, /--faults kill,pause:2/],
  ["chaos --faults pause:61", /--faults "pause:61": .* \(up to 60\)/, /--faults kill,pause:2/],
  ["chaos --faults pair", /--faults pair kills two nodes at once, and 4 nodes with --replicas 1/, /-n 5 --replicas 2/],
  ["chaos --replicas 0", /chaos without replicas: the first fault ends the run/, /--replicas 1/],
  ["chaos -n 1", /chaos without replicas/, /--replicas 1/],
  ["chaos --respawn", /unknown option '--respawn'/, /ringtmp chaos --help/],
  ["up --fork", /--fork of which run\?/, /--resume/],
  ["up --pace fast", /--pace "fast": speeds above 0 with MFLOP\/s, GFLOP\/s or TFLOP\/s/, /--pace 2GFLOP\/s/],
  ["up --pace 2", /--pace "2": speeds above 0/, /--pace 2GFLOP\/s/],
  ["up --pace 2,0,1,1GFLOP/s", /--pace "2,0,1,1GFLOP\/s": speeds above 0/, /--pace 2GFLOP\/s/],
  ["up --pace 2,1GFLOP/s", /--pace "2,1GFLOP\/s" has 2 speeds for 4 nodes/, /one speed for all, or 4/],
  ["up -n 1 --pace 2,1GFLOP/s", /has 2 speeds for 1 node/, /give one speed/],
  ["up --link 5", /--link "5": a rate in kbit, mbit or gbit, a latency in us, ms or s/, /--link 100mbit,5ms/],
  ["up --link 5ms,6ms", /--link "5ms,6ms": "6ms": a rate in/, /--link 100mbit,5ms/],
  ["up --link 11s", /--link "11s": .* \(at most 10s\)/, /--link 100mbit,5ms/],
  ["train --system serial --link 5ms", /--link 5ms with --system serial, which has no network/, /leave --link out/],
  ["up --memory-limit=1MiB", /--memory-limit "1MiB": at least 64MiB is needed/, /--memory-limit 256MiB/],
  ["up --memory-limit 256", /--memory-limit "256": an amount in MiB, GiB, MB or GB/, /--memory-limit 256MiB/],
  [
    "up --memory-limit 64MiB",
    /--memory-limit 64MiB: .* at least \d+ MiB for the smallest window/,
    /--memory-limit \d+MiB/,
  ],
  ["up --schedule zero-buble", /--schedule "zero-buble": one of .* did you mean zero-bubble\?/, /--schedule/],
  ["up --balance sometimes", /--balance "sometimes": one of auto, even, off is needed/, /--balance/],
  ["up --replicas 4", /--replicas 4 of 4 nodes: each copy needs another node/, /--replicas 3 or fewer/],
  ["up --laps 0", /--laps "0": a whole number from 1 to 64/, /--laps/],
  ["up --laps 1.5", /--laps "1.5": a whole number/, /--laps/],
  [
    "up --laps 2",
    /laps x nodes \(2 x 4 = 8\) is more than the model's 4 layers/,
    /fewer laps or nodes, or a deeper model/,
  ],
  [
    "up -n 2 --laps 2 --schedule 1f1b",
    /--schedule 1f1b: it has no laps, and --laps is 2/,
    /zero-bubble or interleaved/,
  ],
  [
    "up -n 2 --laps 2 --micro-batches 3 --batch 33",
    /--schedule zero-bubble: 2 laps need --micro-batches divisible by the 2 nodes, not 3/,
    /--micro-batches 4/,
  ],
  [
    "up --schedule interleaved --micro-batches 6 --batch 36",
    /--schedule interleaved: .* need.* --micro-batches divisible by the 4 nodes, not 6/,
    /--micro-batches 8/,
  ],
  [
    "up --schedule zb-h1 --micro-batches 2",
    /--schedule zb-h1: it needs at least as many micro-batches as nodes, not 2 for 4/,
    /--micro-batches 4 or more, or --schedule zero-bubble/,
  ],
  ["train --system fsdp", /--system "fsdp": not in this version/, /--system/],
  ["up --engine blas", /--engine "blas": not in this version/, /--engine/],
  ["up --wire f16", /--wire "f16": not in this version/, /--wire/],
  ["up --model gpt:layers=4", /model "gpt:layers=4": not in this version/, /mlp:784-256-10/],
  ["up -n 5", /nodes 5 is more than the model's 4 layers/, /at most -n 4/],
  ["up -n 0", /--nodes "0": a whole number from 1 to 1024/, /--nodes/],
  ["up -n -3", /--nodes "-3": a whole number from 1 to 1024/, /--nodes/],
  ["up --steps 1e30", /--steps "1e30": a whole number from 1 to 1000000000/, /--steps/],
  ["up --steps 2.5", /--steps "2.5": a whole number/, /--steps/],
  ["up --batch many", /--batch "many": a whole number/, /--batch/],
  ["up --micro-batches 0", /--micro-batches "0": a whole number/, /--micro-batches/],
  ["up --batch 100", /--batch 100 is not divisible by --micro-batches 8/, /--batch 104/],
  ["up --lr -1", /--lr "-1": a number above 0/, /--lr/],
  ["up --lr 1e999", /--lr "1e999": a number above 0/, /--lr/],
  ["up --seed -1", /--seed "-1": a whole number from 0/, /--seed/],
  ["up --timeline some", /--timeline "some" is not known/, /all, none or last:20/],
  ["up --local 9", /--local "9": a whole number from 1 to -n \(4\)/, /how many/],
  ["up --name ", /--name "": a text that is not empty/, /--name/],
  ["up --model mlp:784--10", /"" is not a whole number from 1 to 65536/, /mlp:784-256-10/],
  ["train --system serial --model mlp:784-9", /gives 9 classes; digits has 784 and 10/, /--model mlp:784-10/],
  ["train --system serial --model mlp:9-10", /takes 9 features/, /--model mlp:784-10/],
  ["up --config none.json", /--config none.json cannot be read/, /config.json/],
  ["up --resume none --out run", /--resume goes on in its own folder/, /leave --out/],
  ["join nowhere", /"nowhere" is not an address of a peer/, /\/ip4\//],
  ["up -n 1 --model mlp:784-10 --listen nowhere", /"nowhere" is not an address of a peer/, /\/ip4\//],
  ["status", /no job runs/, /ringtmp jobs/],
  ["stop none", /no running job is "none"/, /ringtmp jobs/],
  ["data get emnist", /data get emnist: not a data set that is downloaded/, /did you mean mnist\?/],
  ["data lst", /unknown command 'lst'/, /did you mean list\?/],
];

/** In parts, each with a limit of its own. */
const PARTS = 3;
test.each(Array.from({ length: PARTS }, (_, part) => part))(
  "flags, values and commands that are not known, part %i",
  async (part) => {
    await using cli = new CommandLine();
    const rows = USAGE.filter((_, index) => index % PARTS === part);
    const lines = rows.map(([typed]) => typed.split(" "));
    const ended = await cli.runEach(lines);
    expect(await cli.run(...lines[0]!), "a process of its own says the same").toEqual(ended[0]);
    for (const [index, [typed, cause, remedy]] of rows.entries()) {
      const said = expectRefusal(ended[index]!, 2);
      expect(said[0], typed).toMatch(cause);
      expect(said[1], typed).toMatch(remedy);
    }
    const written = readdirSync(cli.folder, { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map(({ parentPath, name }) => `${parentPath}/${name}`);
    // A node that came as far as its address has an identity, which stays.
    expect(written.filter((path) => !/\/(?:state|\.runtime)\//.test(path))).toEqual([]);
  },
  LIMIT_MS,
);

test(
  "a pace that no machine keeps is no error: the run ends, and says how often it was missed",
  async () => {
    await using cli = new CommandLine();
    for (const [command, nodes] of [
      [[...SERIAL.slice(0, 3)], 1],
      [["train", "-n", "2"], 2],
    ] as const) {
      const flags = [...SMALL, "--steps", "2", "--quiet", "--pace", "1000TFLOP/s", "--out", `run-${nodes}`] as const;
      const { code, stderr } = await cli.run(...command, ...flags);
      expect(code, stderr).toBe(0);
      const { emulated } = cli.json(`run-${nodes}`, "summary.json") as { emulated: Record<string, number> };
      const { missedPaces, pacedOperations } = emulated;
      expect(missedPaces).toBeGreaterThan(0);
      expect(stderr).toMatch(
        new RegExp(
          `^warning: ${missedPaces} of ${pacedOperations} paced operations took longer than --pace says[^\n]+\n$`,
        ),
      );
    }
  },
  LIMIT_MS,
);

test(
  "configuration files",
  async () => {
    await using cli = new CommandLine();
    const cases = [
      ["{ steps", /--config bad.json cannot be read as JSON/],
      ["[1]", /--config bad.json does not hold an object/],
      ['{"step": 3}', /unknown setting "step"/],
      ['{"filter": "kkt"}', /setting "filter": not in this version/],
      ['{"steps": "all"}', /--steps "all": a whole number/],
      ['{"laps": 2, "schedule": "gpipe", "nodes": 2}', /--schedule gpipe: it has no laps, and --laps is 2/],
      ['{"pace": 2}', /--pace 2: a text is needed/],
      ['{"link": "fast"}', /--link "fast": a rate in/],
    ] as const;
    for (const [content, cause] of cases) {
      writeFileSync(cli.file("bad.json"), content);
      expect(expectRefusal(await cli.run("up", "--config", "bad.json"), 2)[0]).toMatch(cause);
    }
  },
  LIMIT_MS,
);

describe("addresses", () => {
  test(
    "a port in use costs nothing; nobody at an address",
    async () => {
      await using cli = new CommandLine();
      const server = createServer().listen(0, "127.0.0.1");
      await new Promise((done) => server.once("listening", done));
      const { port } = server.address() as AddressInfo;
      const summary = await cli.train("--system", "serial", ...SMALL, "--steps", "2", "--out", "kept");
      const listen = ["--listen", `/ip4/127.0.0.1/tcp/${port}`] as const;
      for (const out of [
        ["--out", "kept", "--force"],
        ["--out", "new"],
      ]) {
        const ended = await cli.run("up", ...SMALL, "-n", "2", ...listen, ...out);
        expect(expectRefusal(ended, 4)[0]).toBe(`port ${port} is in use`);
      }
      expect(cli.json("kept", "summary.json")).toEqual(summary);
      expect(readdirSync(cli.file("new")), "who the nodes are is all that is left").toEqual(["state"]);
      await new Promise((done) => server.close(done));
      const nobody = await cli.run("join", `/ip4/127.0.0.1/tcp/${port}`, "--out", "joined");
      expect(expectRefusal(nobody, 4)[0]).toBe(`cannot reach /ip4/127.0.0.1/tcp/${port}: nothing listens there`);
      expect(readdirSync(cli.file("joined"))).toEqual(["state"]);
    },
    LIMIT_MS,
  );
});

test("--resume of what is no run", async () => {
  await using cli = new CommandLine();
  mkdirSync(cli.file("empty"));
  mkdirSync(cli.file("foreign"));
  writeFileSync(cli.file("foreign", "letter.txt"), "");
  const cases = [
    ["none", /^--resume none: there is no such folder$/],
    ["empty", /^--resume empty: it is empty$/],
    ["foreign", /^--resume foreign: it is not a run$/],
    ["foreign/letter.txt", /^--resume foreign\/letter.txt: there is no such folder$/],
  ] as const;
  for (const [folder, cause] of cases) {
    const [told, remedy] = expectRefusal(await cli.run("up", "--resume", folder), 3);
    expect(told).toMatch(cause);
    expect(remedy).toBe("name the folder that a run wrote (its --out)");
  }
});

describe("data", () => {
  /** Four files of an MNIST of five images each. */
  function writeMnist(folder: string): void {
    mkdirSync(folder, { recursive: true });
    for (const part of ["train", "t10k"]) {
      const images = Buffer.alloc(16 + 5 * 784);
      for (const [index, word] of [2051, 5, 28, 28].entries()) images.writeUInt32BE(word, 4 * index);
      const labels = Buffer.from([0, 0, 8, 1, 0, 0, 0, 5, 0, 1, 2, 3, 9]);
      writeFileSync(`${folder}/${part}-images-idx3-ubyte.gz`, gzipSync(images));
      writeFileSync(`${folder}/${part}-labels-idx1-ubyte.gz`, gzipSync(labels));
    }
  }

  test(
    "images and labels that are missing, torn or wrong",
    async () => {
      await using cli = new CommandLine();
      const flags = [...SERIAL, "--data", "mnist", "--data-dir", "images", "--out", "run"] as const;
      const images = "images/train-images-idx3-ubyte.gz";
      const labels = "images/train-labels-idx1-ubyte.gz";
      const whole = (): void => writeMnist(cli.file("images"));
      const write = (file: string, bytes: readonly number[]): void =>
        writeFileSync(cli.file(file), gzipSync(Buffer.from(bytes)));
      const cases: readonly (readonly [() => void, RegExp])[] = [
        [() => {}, /images has no train-images-idx3-ubyte.gz/],
        [
          () => writeFileSync(cli.file(images), readFileSync(cli.file(images)).subarray(0, 40)),
          /ubyte.gz is torn or no gzip/,
        ],
        [() => write(labels, [0, 0, 8, 9, 0, 0, 0, 1, 0]), /labels.*: expected the magic number 2049, found 2057/],
        [() => write(labels, [0, 0, 8, 1, 0, 0, 0, 5, 0, 1, 2, 10, 4]), /labels.*: label 3 is 10, expected 0..9/],
        [() => write(labels, [0, 0, 8, 1, 0, 0, 0, 2, 0, 1]), /has 5 images, but .* 2 labels/],
      ];
      for (const [index, [spoil, cause]] of cases.entries()) {
        if (index > 0) whole();
        spoil();
        const [said, remedy] = expectRefusal(await cli.run(...flags), 3);
        expect(said).toMatch(cause);
        expect(remedy).toContain("--data-dir");
      }
      // A ring says the same, whose founder reads the data.
      const ring = await cli.run("up", ...SMALL, "-n", "2", ...flags.slice(-6));
      expect(expectRefusal(ring, 3)[0]).toMatch(/has 5 images, but .* 2 labels/);
      whole();
      expect((await cli.run(...flags)).code).toBe(0);
    },
    LIMIT_MS,
  );

  test(
    "tables that are empty, broken or of other widths",
    async () => {
      await using cli = new CommandLine();
      const cases = [
        ["", 3, /table.csv: the file is empty/],
        ["1,2,0\n1,NaN,1\n1,2,0\n1,2,0\n1,2,0\n", 3, /line 2, column 2: expected a finite number, found "NaN"/],
        ["1,2,0\n1,2\n1,2,0\n1,2,0\n1,2,0\n", 3, /line 2: expected 3 columns, found 2/],
        [
          "1,2,0\n1,2,1\n1,2,0\n1,2,0\n1,2,0\n",
          2,
          /takes 784 features and gives 10 classes; csv:\S+table.csv has 2 and 2/,
        ],
      ] as const;
      for (const [content, code, cause] of cases) {
        writeFileSync(cli.file("table.csv"), content);
        expect(expectRefusal(await cli.run(...SERIAL, "--data", "csv:table.csv"), code)[0]).toMatch(cause);
      }
      expect(expectRefusal(await cli.run(...SERIAL, "--data", "csv:none.csv"), 3)[0]).toMatch(/none.csv: no such file/);
    },
    LIMIT_MS,
  );
});
