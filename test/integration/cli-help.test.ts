/** @file The help of every command: it has an example, fits a terminal of 80 columns, and names nothing that is not there. */
import { expect, test } from "vitest";
import { CommandLine } from "../helpers/cli.ts";

const COMMANDS = [
  ...["", "up", "train", "join", "plan", "simulate", "status", "why", "jobs", "stop", "evaluate", "export", "plot"],
  ...["kill", "pause", "resume", "leave", "cut", "mend", "chaos"],
  ...["data", "data list", "data get", "data batches"],
];
const LATER = /--watch|--replicate|doctor|dashboard|\bblas\b/;
/** Of commands that know no other system than the ring. */
const OF_SERVERS = /--servers/;

test("every command's help", async () => {
  await using cli = new CommandLine();
  for (const command of COMMANDS) {
    const { code, stdout, stderr } = await cli.run(...command.split(" ").filter(Boolean), "--help");
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    const name = `ringtmp ${command}`.trim();
    expect(stdout).toMatch(new RegExp(`^Usage: ${name}\\b`));
    expect(stdout, name).toMatch(/\nExamples?:\n {2}ringtmp \w+/);
    expect(
      stdout.split("\n").filter((line) => line.length > 80),
      name,
    ).toEqual([]);
    expect(stdout, name).not.toMatch(LATER);
    if (!["plan", "train"].includes(command)) expect(stdout, name).not.toMatch(OF_SERVERS);
  }
});

test("help where the command is left out is a mistake; the version is not", async () => {
  await using cli = new CommandLine();
  expect(await cli.run()).toMatchObject({ code: 2, stdout: "", stderr: expect.stringMatching(/^Usage: ringtmp /) });
  expect(await cli.run("data")).toMatchObject({
    code: 2,
    stdout: "",
    stderr: expect.stringMatching(/^Usage: ringtmp data/),
  });
  expect(await cli.run("--version")).toMatchObject({
    code: 0,
    stdout: expect.stringMatching(/^ringtmp-\d+\.\d+\.\d+\n$/),
  });
  const debug = await cli.run("--debug", "up", "-n", "0");
  expect(debug.stderr).toMatch(/\n {4}at /);
});
