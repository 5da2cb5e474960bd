/**
 * @file What push and pull of a parameter server cost, over TCP on loopback, between processes: from the call until the push is applied or the
 * values are here. Encrypted with TLS as in a run, and in plaintext as ps-lite does it. Run alone: `npm run bench -- keys`.
 */
import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { median, quantileSorted } from "simple-statistics";
import type { Answer, Group, Order } from "./keys-far.ts";
import type { BenchRow } from "./row.ts";

const KEY_BYTES = 4;
const SIZES = [
  { name: "4 B", sizeBytes: 4, count: 400 },
  { name: "4 KiB", sizeBytes: 2 ** 12, count: 400 },
  { name: "64 KiB", sizeBytes: 2 ** 16, count: 300 },
  { name: "1 MiB", sizeBytes: 2 ** 20, count: 120 },
  { name: "16 MiB", sizeBytes: 2 ** 24, count: 10 },
] as const;
const KINDS = ["push", "pull"] as const;
const SERVERS = [1, 2] as const;
const WORKERS = [1, 2, 4] as const;
/** Measured with ps-lite on two cores of this kind; the ratio to it is to the middle. */
const PS_LITE: Readonly<Record<string, { readonly text: string; readonly ms: number }>> = {
  "4 B": { text: "ps-lite 40 µs", ms: 0.04 },
  "1 MiB": { text: "ps-lite 0.38..0.51 ms", ms: 0.445 },
};
const LIMIT_MS = 60_000;

class Far {
  readonly #process: ChildProcess = fork(fileURLToPath(new URL("keys-far.ts", import.meta.url)), {
    stdio: ["ignore", "inherit", "inherit", "ipc"],
  });

  async ask<Kind extends Answer["kind"]>(order: Order): Promise<Extract<Answer, { kind: Kind }>> {
    const answered = once(this.#process, "message", { signal: AbortSignal.timeout(LIMIT_MS) });
    this.#process.send(order);
    const [answer] = (await answered) as [Extract<Answer, { kind: Kind }>];
    return answer;
  }

  async cpu(): Promise<number> {
    const { userMs, systemMs } = await this.ask<"cpu">({ kind: "cpu" });
    return userMs + systemMs;
  }

  end(): void {
    this.#process.disconnect();
  }
}

interface Measured {
  /** Of all workers. */
  readonly timesMs: readonly number[];
  /** Of one request, in all servers and in its worker. */
  readonly serverCpuMs: number;
  readonly workerCpuMs: number;
}

class KeyBench {
  readonly #servers: readonly Far[];
  readonly #workers: readonly Far[];

  private constructor(servers: readonly Far[], workers: readonly Far[]) {
    [this.#servers, this.#workers] = [servers, workers];
  }

  static async start(group: Group): Promise<KeyBench> {
    const processes = (count: number): Far[] => Array.from({ length: count }, () => new Far());
    const [servers, workers] = [processes(group.servers), processes(group.workers)];
    const serving = servers.map((far, server) => far.ask<"serving">({ kind: "serve", server, group }));
    const listening = await Promise.all(serving);
    const addresses = group.sizes.map((_, size) => listening.map((each) => each.addresses[size]!));
    await Promise.all(workers.map((far, worker) => far.ask({ kind: "connect", worker, group, addresses })));
    return new KeyBench(servers, workers);
  }

  async measure(size: number, what: "push" | "pull"): Promise<Measured> {
    const { count } = SIZES[size]!;
    const work = (times: number) =>
      Promise.all(this.#workers.map((far) => far.ask<"worked">({ kind: "work", size, what, count: times })));
    // Warms up.
    await work(Math.ceil(count / 2));
    const before = await this.#cpu();
    const answers = await work(count);
    const after = await this.#cpu();
    const requests = count * this.#workers.length;
    return {
      timesMs: answers.flatMap(({ timesMs }) => timesMs),
      serverCpuMs: (after.servers - before.servers) / requests,
      workerCpuMs: (after.workers - before.workers) / requests,
    };
  }

  async #cpu(): Promise<{ readonly servers: number; readonly workers: number }> {
    const sum = async (each: readonly Far[]): Promise<number> =>
      (await Promise.all(each.map((far) => far.cpu()))).reduce((total, ms) => total + ms, 0);
    return { servers: await sum(this.#servers), workers: await sum(this.#workers) };
  }

  end(): void {
    for (const far of [...this.#servers, ...this.#workers]) far.end();
  }
}

function row(name: string, size: (typeof SIZES)[number]["name"], { timesMs, ...cpu }: Measured): BenchRow {
  const sorted = timesMs.toSorted((a, b) => a - b);
  const value = median(sorted);
  const spread = [0.1, 0.9].map((part) => quantileSorted(sorted, part).toFixed(3)).join("..");
  const anchor = PS_LITE[size];
  const ratio = anchor === undefined ? "" : `; ${anchor.text}, ${(value / anchor.ms).toFixed(1)}x`;
  const split = `CPU of a request: worker ${cpu.workerCpuMs.toFixed(3)}, server ${cpu.serverCpuMs.toFixed(3)} ms`;
  return { name, value, unit: "ms", spread, beside: `${split}${ratio}` };
}

/** Takes about two minutes. The spread is from the 10th to the 90th percentile of single requests. */
export async function benchKeys(): Promise<BenchRow[]> {
  const rows: BenchRow[] = [];
  const sizes = SIZES.map(({ sizeBytes }) => sizeBytes / KEY_BYTES);
  for (const encryption of ["plaintext", "tls"] as const) {
    for (const servers of SERVERS) {
      for (const workers of WORKERS) {
        const bench = await KeyBench.start({ encryption, servers, workers, sizes });
        for (const what of KINDS) {
          for (const [size, { name }] of SIZES.entries()) {
            // One key cannot lie on two servers.
            if (servers > 1 && sizes[size]! < servers) continue;
            const heading = `keys: ${what} ${name}, ${encryption}, ${servers} servers, ${workers} workers`;
            rows.push(row(heading, name, await bench.measure(size, what)));
          }
        }
        bench.end();
      }
    }
  }
  return rows;
}
