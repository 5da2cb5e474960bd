/**
 * @file A process that watches its own memory and takes more, `stepBytes` a turn, up to `endBytes`. It prints a line for its size
 * before that, and one for each call of the guard, and ends when nothing but the guard is left.
 */
import { setTimeout as delay } from "node:timers/promises";
import { watchMemory } from "../../src/runtime/process-memory.ts";

const [limitBytes = 0, stepBytes = 0, endBytes = 0] = process.argv.slice(2).map(Number);
const TURN_MS = 20;
const taken: Uint8Array[] = [];

console.log("started", process.memoryUsage.rss());
watchMemory(process.memoryUsage.rss() + limitBytes, (residentBytes) => console.log("exceeded", residentBytes));
for (let bytes = 0; bytes < endBytes; bytes += stepBytes) {
  taken.push(new Uint8Array(stepBytes).fill(1));
  await delay(TURN_MS);
}
console.log("taken", taken.length * stepBytes);
