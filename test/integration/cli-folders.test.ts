/** @file Folders that a run must not write to, or cannot go on from; and numbers that leave the finite ones. */
import { chmodSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { expect, test } from "vitest";
import { CommandLine, SMALL } from "../helpers/cli.ts";

const LIMIT_MS = 120_000;
const JOB = [...SMALL, "--steps", "6", "--checkpoint-every", "2"] as const;
const SERIAL = ["train", "--system", "serial", "--quiet", "--json"] as const;

test(
  "--out is never what somebody else put there",
  async () => {
    await using cli = new CommandLine();
    const first = await cli.train("--system", "serial", ...JOB, "--out", "run");
    const refused = await cli.run(...SERIAL, ...JOB, "--out", "run");
    expect(refused.code).toBe(2);
    expect(refused.stderr).toMatch(/^error: --out \S+\/run holds another run\n {2}fix: .*--force\n$/);
    expect(cli.json("run", "summary.json")).toEqual(first);
    const second = await cli.train("--system", "serial", ...JOB, "--seed", "2", "--out", "run", "--force");
    expect(second["weightsSha256"]).not.toBe(first["weightsSha256"]);
    expect(cli.lines("run", "metrics.jsonl")).toHaveLength(6);

    mkdirSync(cli.file("letters"));
    writeFileSync(cli.file("letters", "love.txt"), "dear");
    const foreign = await cli.run(...SERIAL, ...JOB, "--out", "letters", "--force");
    expect(foreign.stderr).toMatch(/^error: --out \S+\/letters holds something that is not a run\n {2}fix: /);
    expect(foreign.code).toBe(2);
    expect(readdirSync(cli.file("letters"))).toEqual(["love.txt"]);
    const onFile = await cli.run(...SERIAL, ...JOB, "--out", "letters/love.txt");
    expect(onFile.stderr).toMatch(/^error: --out \S+love.txt is not a folder\n {2}fix: name another folder\n$/);
    const below = await cli.run("up", ...JOB, "-n", "2", "--quiet", "--out", "letters/love.txt/run");
    expect(below.code).toBe(2);
    expect(below.stderr).toMatch(
      /^error: --out \S+run: \S+love.txt cannot be written to\n {2}fix: name another folder\n$/,
    );
    expect(readFileSync(cli.file("letters", "love.txt"), "utf8")).toBe("dear");
  },
  LIMIT_MS,
);

test(
  "--resume refuses what would not give the same run",
  async () => {
    await using cli = new CommandLine();
    const whole = await cli.train("--system", "serial", ...JOB, "--data", "digits", "--out", "run");
    const cases = [
      [["--lr", "0.5"], 2, /that run has --lr 0.001, not 0.5/],
      [["--engine", "wasm-exact"], 2, /that run has --engine wasm, not wasm-exact/],
      [["--steps", "6"], 2, /step 6 is reached, and --steps is 6/],
      [["--steps", "8", "-n", "9", "--system", "ring"], 2, /nodes 9 is more than the model's 3 layers/],
    ] as const;
    for (const [flags, code, cause] of cases) {
      const ended = await cli.run("train", "--resume", "run", ...flags);
      expect(ended.stderr).toMatch(cause);
      expect(ended.stderr).toMatch(/^error: [^\n]+\n {2}fix: [^\n]+\n$/);
      expect(ended.code).toBe(code);
    }
    expect(cli.json("run", "summary.json")).toEqual(whole);
    const environment = cli.json("run", "environment.json");
    writeFileSync(cli.file("run", "environment.json"), JSON.stringify({ ...environment, dataSha256: "0" }));
    const otherData = await cli.run(...SERIAL, "--resume", "run", "--steps", "8");
    expect(otherData.code).toBe(3);
    expect(otherData.stderr).toMatch(/^error: --resume run: digits is not the data that the run began with\n {2}fix: /);
  },
  LIMIT_MS,
);

test(
  "--fork begins a new run from a checkpoint, with another learning rate, and only reads the old one",
  async () => {
    await using cli = new CommandLine();
    const before = await cli.train("--system", "serial", ...JOB, "--out", "run");
    const refused = await cli.run("train", "--resume", "run", "--lr", "0.01", "--steps", "9");
    expect(refused).toMatchObject({ code: 2, stdout: "" });
    expect(refused.stderr).toBe(
      "error: --resume run: that run has --lr 0.001, not 0.01\n  fix: leave --lr out, or start a new run from it: add --fork --out NEW\n",
    );
    const flags = ["--fork", "--lr", "0.01", "--seed", "9", "--steps", "9"] as const;
    const forked = await cli.train("--resume", "run", ...flags, "--out", "new", "--system", "ring", "-n", "2");
    expect(forked["steps"]).toBe(9);
    const [old, fork] = ["run", "new"].map((out) => cli.lines(out, "metrics.jsonl").map(({ loss }) => loss));
    expect(fork).toHaveLength(9);
    expect(fork!.slice(0, 6), "the steps before the checkpoint").toEqual(old!.slice(0, 6));
    expect(cli.json("new", "config.json")).toMatchObject({ lr: 0.01, seed: 9 });
    expect(cli.json("run", "summary.json")).toEqual(before);
    expect(cli.json("run", "config.json")).toMatchObject({ lr: 0.001 });
    // The fork is a run like any other: one process and a ring go on with the same bits.
    const again = await cli.train("--resume", "run", ...flags, "--out", "serial", "--system", "serial");
    for (const field of ["weightsSha256", "lossCurveSha256"]) expect(forked[field]).toBe(again[field]);
    const other = await cli.run("train", "--resume", "run", "--fork", "--optimizer", "sgd", "--out", "sgd");
    expect(other.stderr).toMatch(
      /that run has --optimizer adam, not sgd\n {2}fix: leave --optimizer out, or start a new run\n/,
    );
    const self = await cli.run("train", "--resume", "run", ...flags, "--out", "run", "--force");
    expect(self.stderr).toMatch(/^error: --fork into run itself\n/);
    expect(cli.json("run", "summary.json")).toEqual(before);
  },
  LIMIT_MS,
);

test(
  "a damaged checkpoint is named, and the older one leads to the same end",
  async () => {
    await using cli = new CommandLine();
    await cli.train("-n", "2", ...JOB, "--out", "run");
    const folder = cli.file("run", "checkpoints", "6");
    const shard = readdirSync(folder).find((name) => name.endsWith(".safetensors")) ?? "";
    const bytes = readFileSync(`${folder}/${shard}`);
    const spoilt = Buffer.from(bytes);
    // The lowest bit of a weight: a finite number as before.
    spoilt[spoilt.length - 100]! ^= 1;
    writeFileSync(`${folder}/${shard}`, spoilt);
    const damage = `\\S+/6/${shard} is damaged: tensor \\S+: damaged between offset \\d+ and \\d+`;
    for (const command of ["evaluate", "export"]) {
      const { code, stderr } = await cli.run(command, "run");
      expect(stderr).toMatch(new RegExp(`^warning: ${damage}; using the checkpoint of step 4 instead\n$`));
      expect(code).toBe(0);
    }
    const named = await cli.run("export", "run", "--step", "6");
    expect(named.stderr).toMatch(new RegExp(`^error: ${damage}\n {2}fix: copy it there again, or delete`));
    expect(named.code).toBe(3);
    // The older checkpoint leads to the same end.
    const resumed = await cli.train("--resume", "run", "--steps", "8");
    const undisturbed = await cli.train("--system", "serial", ...JOB, "--steps", "8", "--out", "undisturbed");
    expect(resumed["weightsSha256"]).toBe(undisturbed["weightsSha256"]);
    expect(resumed["lossCurveSha256"]).toBe(undisturbed["lossCurveSha256"]);
    expect(resumed["initialWeightsSha256"]).toBe(undisturbed["initialWeightsSha256"]);
    rmSync(cli.file("run", "checkpoints"), { recursive: true });
    const none = await cli.run("up", "--resume", "run", "--steps", "9", "--quiet");
    expect(none.stderr).toMatch(
      /^error: \S+\/run holds no complete checkpoint\n {2}fix: run again with --checkpoint-every/,
    );
    expect(none.code).toBe(3);
  },
  LIMIT_MS,
);

test(
  "numbers that are not finite end the run with step and layer, and what was committed is kept",
  async () => {
    await using cli = new CommandLine();
    const wild = [...SMALL, "--optimizer", "adamw", "--lr", "1000", "--steps", "50", "--quiet"] as const;
    // With copies a step is committed when all have it: the two before the last may not be, when its numbers are seen.
    for (const [out, uncommitted, ...command] of [
      ["serial", 0, "train", "--system", "serial"],
      ["plain", 0, "up", "-n", "3", "--replicas", "0"],
      ["copied", 2, "up", "-n", "3"],
    ] as const) {
      const { code, stdout, stderr } = await cli.run(...command, ...wild, "--out", out);
      expect({ code, stdout }).toEqual({ code: 1, stdout: "" });
      expect(stderr).toMatch(
        /^error: the numbers are not finite at step \d+, layer \d.*\n {2}fix: lower --lr, .* is kept\n$/,
      );
      const step = Number(/at step (\d+)/.exec(stderr)?.[1]);
      const kept = cli.lines(out, "metrics.jsonl").map((line) => line["step"]);
      expect(kept).toEqual([...Array(kept.length).keys()]);
      expect(kept.length).toBeLessThanOrEqual(step);
      expect(kept.length).toBeGreaterThanOrEqual(step - uncommitted);
    }
  },
  LIMIT_MS,
);

test.skipIf(process.getuid === undefined)(
  "a runtime folder that others may write to is not used",
  async () => {
    await using cli = new CommandLine();
    const folder = cli.file(".runtime", `ringtmp-${process.getuid?.()}`);
    mkdirSync(folder);
    chmodSync(folder, 0o777);
    const { code, stderr } = await cli.run("jobs");
    expect(code).toBe(2);
    expect(stderr).toMatch(/^error: \S+ does not belong to this user alone\n {2}fix: remove it, or name a folder/);
  },
  LIMIT_MS,
);
