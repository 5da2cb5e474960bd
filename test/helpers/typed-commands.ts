/**
 * @file Runs command lines one after the other in this process, as if each were typed: only the program's first module is evaluated anew, which
 * spares most of what a start costs. The argument is their list as JSON; what each said comes out as JSON.
 */
import type { Ended } from "./cli.ts";

const [list = "[]"] = process.argv.slice(2);
const { stdout, stderr } = process;
const writers = { stdout: stdout.write.bind(stdout), stderr: stderr.write.bind(stderr) };
// Each line adds its own.
stdout.setMaxListeners(0);

const ended: Ended[] = [];
for (const [index, typed] of (JSON.parse(list) as string[][]).entries()) {
  const said = { stdout: "", stderr: "" };
  stdout.write = (part: string | Uint8Array) => ((said.stdout += String(part)), true);
  stderr.write = (part: string | Uint8Array) => ((said.stderr += String(part)), true);
  process.argv.splice(2, Infinity, ...typed);
  process.exitCode = 0;
  await import(`../../src/cli/main.ts?line=${index}`);
  ended.push({ ...said, code: process.exitCode });
}
Object.assign(stdout, { write: writers.stdout });
Object.assign(stderr, { write: writers.stderr });
process.exitCode = 0;
stdout.write(JSON.stringify(ended));
