/** @file A consumer that is a hundred times slower than its producer bounds the memory of both processes, over TCP and TLS. */
import { fork } from "node:child_process";
import type { ChildProcess } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { afterEach, expect, test } from "vitest";
import { WINDOW_BYTES_DEFAULT } from "../../src/net/window.ts";

/** Buffers of TLS, TCP and staging, and what the collector has not yet freed. Without credits it would be 400 MiB. */
const SLACK_BYTES = 64 * 1024 * 1024;
const children: ChildProcess[] = [];

afterEach(() => {
  for (const child of children.splice(0)) child.kill("SIGKILL");
});

function start(...parameters: string[]): ChildProcess {
  const child = fork(fileURLToPath(new URL("slow-consumer-process.ts", import.meta.url)), parameters, { execArgv: [] });
  children.push(child);
  return child;
}

async function answer<T>(child: ChildProcess): Promise<T> {
  const [message] = (await once(child, "message", { signal: AbortSignal.timeout(30_000) })) as [T];
  return message;
}

test("both processes stay within the window and a constant", { timeout: 60_000 }, async () => {
  const consumer = start("consumer");
  const { addresses } = await answer<{ addresses: string[] }>(consumer);
  const producer = start("producer", ...addresses);
  type Report = { growthBytes: number; messages: number };
  const [produced, consumed] = await Promise.all([answer<Report>(producer), answer<Report>(consumer)]);
  // What the consumer handled and what may be under way; the producer was ready to send far more.
  expect(consumed.messages).toBeGreaterThan(0);
  expect(produced.messages).toBeLessThan(200);
  expect(produced.growthBytes, "producer").toBeLessThan(WINDOW_BYTES_DEFAULT + SLACK_BYTES);
  expect(consumed.growthBytes, "consumer").toBeLessThan(WINDOW_BYTES_DEFAULT + SLACK_BYTES);
});
