/**
 * @file What a key costs where it is, where it is not, and on its way, over TCP on loopback between three processes: the node that asks, the keys' home, and
 * another owner. Run alone: `npm run bench -- localize`.
 */
import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { median, quantileSorted } from "simple-statistics";
import type { NodeAnswer, NodeOrder, NodesGroup } from "./localize-far.ts";
import type { BenchRow } from "./row.ts";

const NODES = 3;
const ASKS = 0;
const HOME = 1;
const OTHER = 2;
/** Those whose home is one of the nodes: a third of all. */
const COUNT = 400;
const LENGTHS = [1, 16] as const;
const LOCAL = { count: 100_000, rounds: 9 };
/** Measured with Lapse on two cores of this kind. */
const LAPSE_MS = { pull: 0.041, localize: 0.044, local: 0.000_07 };
const LIMIT_MS = 60_000;

class Far {
  readonly #process: ChildProcess = fork(fileURLToPath(new URL("localize-far.ts", import.meta.url)), {
    stdio: ["ignore", "inherit", "inherit", "ipc"],
  });

  async ask(order: NodeOrder): Promise<NodeAnswer> {
    const answered = once(this.#process, "message", { signal: AbortSignal.timeout(LIMIT_MS) });
    this.#process.send(order);
    const [answer] = (await answered) as [NodeAnswer];
    return answer;
  }

  end(): void {
    this.#process.disconnect();
  }
}

const ALL = { start: 0, end: NODES * COUNT };
const AT_HOME = Array.from({ length: COUNT }, (_, index) => NODES * index + HOME);

async function start(group: NodesGroup): Promise<readonly Far[]> {
  const nodes = Array.from({ length: group.nodes }, () => new Far());
  const listening = await Promise.all(nodes.map((far, node) => far.ask({ kind: "listen", node, group })));
  const addresses = listening.map((answer) => answer.addresses!);
  await Promise.all(nodes.map((far) => far.ask({ kind: "meet", addresses })));
  return nodes;
}

function row(name: string, timesMs: readonly number[], besideMs: number, digits: number): BenchRow {
  const sorted = timesMs.toSorted((a, b) => a - b).map((ms) => 1_000 * ms);
  const value = median(sorted);
  const spread = [0.1, 0.9].map((part) => quantileSorted(sorted, part).toFixed(digits)).join("..");
  const lapse = 1_000 * besideMs;
  return {
    name,
    value,
    unit: "µs",
    spread,
    beside: `Lapse ${lapse.toPrecision(2)} µs, ${(value / lapse).toFixed(1)}x`,
  };
}

async function measure(nodes: readonly Far[], heading: string): Promise<BenchRow[]> {
  const rows: BenchRow[] = [];
  for (const [owner, where] of [
    [HOME, "at their home, 2 messages"],
    [OTHER, "elsewhere, 3 messages"],
  ] as const) {
    const medians: number[] = [];
    for (const what of ["pull", "localize"] as const) {
      const times = async (): Promise<readonly number[]> => {
        await nodes[owner]!.ask({ kind: "own", keys: ALL });
        const { timesMs } = await nodes[ASKS]!.ask({ kind: "time", what, keys: AT_HOME });
        return timesMs!;
      };
      // Warms up.
      await times();
      rows.push(row(`${heading}: ${what}, keys ${where}`, await times(), LAPSE_MS[what], 0));
      medians.push(rows.at(-1)!.value);
    }
    const last = rows.pop()!;
    rows.push({ ...last, beside: `${last.beside}; ${(medians[1]! / medians[0]!).toFixed(2)}x of the pull` });
  }
  return rows;
}

async function measureLocal(nodes: readonly Far[], heading: string): Promise<BenchRow[]> {
  await nodes[ASKS]!.ask({ kind: "own", keys: ALL });
  const rows: BenchRow[] = [];
  for (const what of ["pull", "push"] as const) {
    const timesMs: number[] = [];
    for (let round = 0; round <= LOCAL.rounds; round += 1) {
      const answer = await nodes[ASKS]!.ask({ kind: "timeLocal", what, keys: ALL.end, count: LOCAL.count });
      // The first one warms up.
      if (round > 0) timesMs.push(...answer.timesMs!);
    }
    rows.push(row(`${heading}: local ${what}`, timesMs, LAPSE_MS.local, 3));
  }
  return rows;
}

/** Takes half a minute. The spread is from the 10th to the 90th percentile: of single requests, or of rounds of local ones. */
export async function benchLocalize(): Promise<BenchRow[]> {
  const rows: BenchRow[] = [];
  for (const encryption of ["plaintext", "tls"] as const) {
    for (const length of LENGTHS) {
      const nodes = await start({ encryption, nodes: NODES, keys: ALL.end, length });
      const heading = `localize: ${length} values, ${encryption}`;
      rows.push(...(await measure(nodes, heading)));
      if (encryption === "plaintext") rows.push(...(await measureLocal(nodes, `localize: ${length} values`)));
      for (const far of nodes) far.end();
    }
  }
  return rows;
}
