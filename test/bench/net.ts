/**
 * @file What a link over TCP and TLS costs between two processes on loopback, beside raw TCP and beside a bare libp2p
 * stream in the same run. Goodput counts payloads only. Run alone: `bin/node test/bench/net.ts`.
 */
import { fork } from "node:child_process";
import type { ChildProcess } from "node:child_process";
import { once } from "node:events";
import { connect } from "node:net";
import { fileURLToPath } from "node:url";
import { createLibp2p } from "libp2p";
import { multiaddr } from "@multiformats/multiaddr";
import { tcp } from "@libp2p/tcp";
import { tls } from "@libp2p/tls";
import { yamux } from "@libp2p/yamux";
import { median } from "simple-statistics";
import { createLibp2pTransport } from "../../src/net/libp2p.ts";
import { Link } from "../../src/net/link.ts";
import { FrameKind } from "../../src/wire/header.ts";
import { PROTOCOL, STREAM_OPTIONS } from "./net-far.ts";
import type { BenchRow } from "./row.ts";

const KIB = 1024;
const MIB = 1024 * KIB;
const REPETITIONS = 12;
const BATCHES = [
  { name: "16 KiB", sizeBytes: 16 * KIB, count: 2_000 },
  { name: "256 KiB", sizeBytes: 256 * KIB, count: 400 },
  { name: "4 MiB", sizeBytes: 4 * MIB, count: 32 },
  { name: "64 MiB", sizeBytes: 64 * MIB, count: 3 },
];
/** What a bare stream and a link may have queued, as a node does that computes meanwhile. */
const QUEUED_BYTES = 4 * MIB;
const ROUND_TRIPS = 2_000;
const SMALL_BYTES = 64;

/** Sends a batch and resolves when the far side has all of it. */
type Path = (sizeBytes: number, count: number) => Promise<void>;

interface Far {
  readonly process: ChildProcess;
  readonly port: number;
  readonly bare: readonly string[];
  readonly link: readonly string[];
}

async function startFar(): Promise<Far> {
  const child = fork(fileURLToPath(new URL("net-far.ts", import.meta.url)), {
    stdio: ["ignore", "inherit", "inherit", "ipc"],
  });
  const [addresses] = (await once(child, "message", { signal: AbortSignal.timeout(20_000) })) as [Omit<Far, "process">];
  return { process: child, ...addresses };
}

/**
 * The messages of a batch lie one after the other in 64 MiB of memory, as tensors do: a single message sent again and
 * again would stay in the processor's cache. The first eight bytes of the first one tell the batch's size.
 */
const memory = Buffer.alloc(64 * MIB, 7);
function* messages(sizeBytes: number, count: number): Generator<Uint8Array> {
  for (let index = 0; index < count; index++) {
    const start = (index * sizeBytes) % memory.byteLength;
    if (index > 0) yield memory.subarray(start, start + sizeBytes);
    else {
      const first = Buffer.from(memory.subarray(start, start + sizeBytes));
      first.writeBigUInt64LE(BigInt(sizeBytes * count));
      yield first;
    }
  }
}

async function rawPath(far: Far): Promise<[Path, () => Promise<void>]> {
  const socket = connect({ port: far.port, host: "127.0.0.1", noDelay: true });
  await once(socket, "connect");
  const path: Path = async (sizeBytes, count) => {
    const answer = once(socket, "data");
    for (const bytes of messages(sizeBytes, count)) if (!socket.write(bytes)) await once(socket, "drain");
    await answer;
  };
  return [path, async () => void socket.destroy()];
}

async function barePath(far: Far): Promise<[Path, () => Promise<void>]> {
  const node = await createLibp2p({
    transports: [tcp()],
    connectionEncrypters: [tls()],
    streamMuxers: [yamux({ streamOptions: STREAM_OPTIONS })],
  });
  const stream = await node.dialProtocol(
    far.bare.map((address) => multiaddr(address)),
    PROTOCOL,
  );
  const path: Path = async (sizeBytes, count) => {
    const answer = new Promise<void>((resolve) => stream.addEventListener("message", () => resolve(), { once: true }));
    for (const bytes of messages(sizeBytes, count)) {
      stream.send(bytes);
      while (stream.writeBufferLength > QUEUED_BYTES) {
        await new Promise((resolve) => stream.addEventListener("drain", resolve, { once: true }));
      }
    }
    await answer;
  };
  return [path, async () => node.stop()];
}

async function linkPath(far: Far): Promise<[Path, () => Promise<void>]> {
  const transport = await createLibp2pTransport({ listen: [], encryption: "tls" });
  let answered = Promise.withResolvers<void>();
  const { link } = await Link.open(
    await transport.dial(far.link, PROTOCOL),
    {},
    {
      destination: (header) => new Uint8Array(header.payloadBytes),
      handle: () => answered.resolve(),
    },
  );
  const path: Path = async (sizeBytes, count) => {
    answered = Promise.withResolvers<void>();
    const queued: Promise<void>[] = [];
    let index = 0;
    for (const bytes of messages(sizeBytes, count)) {
      queued.push(link.send({ kind: FrameKind.activation, step: ++index === count ? 1 : 0 }, bytes));
      if (queued.length * sizeBytes > QUEUED_BYTES) await queued.shift();
    }
    await answered.promise;
  };
  return [path, async () => (await link.close(), transport.close())];
}

function row(name: string, unit: string, values: number[], digits: number, beside?: string): BenchRow {
  const spread = `${Math.min(...values).toFixed(digits)}..${Math.max(...values).toFixed(digits)}`;
  const value = Number(median(values).toFixed(digits));
  return beside === undefined ? { name, value, unit, spread } : { name, value, unit, spread, beside };
}

async function goodput(paths: Record<"raw" | "bare" | "link", Path>): Promise<BenchRow[]> {
  const rows: BenchRow[] = [];
  for (const { name, sizeBytes, count } of BATCHES) {
    const rates = { raw: [] as number[], bare: [] as number[], link: [] as number[] };
    for (let repetition = -1; repetition < REPETITIONS; repetition++) {
      // In turn: whoever comes second also collects the garbage that the first one left.
      const order = repetition % 2 === 0 ? (["raw", "bare", "link"] as const) : (["raw", "link", "bare"] as const);
      for (const kind of order) {
        const startMs = performance.now();
        await paths[kind](sizeBytes, count);
        const rate = (sizeBytes * count) / MIB / ((performance.now() - startMs) / 1000);
        // The first repetition warms up.
        if (repetition >= 0) rates[kind].push(rate);
      }
    }
    const share = median(rates.link.map((rate, index) => rate / (rates.bare[index] ?? Number.NaN)));
    const beside =
      `bare TLS stream ${median(rates.bare).toFixed(0)}, raw TCP ${median(rates.raw).toFixed(0)}; ` +
      `${(100 * share).toFixed(0)} % of the bare stream`;
    rows.push(row(`net: link goodput, ${name} messages`, "MiB/s", rates.link, 0, beside));
  }
  return rows;
}

async function cpuMs(far: Far): Promise<{ near: number; far: number }> {
  const answer = once(far.process, "message");
  far.process.send("cpu");
  const [{ cpu }] = (await answer) as [{ cpu: NodeJS.CpuUsage }];
  const own = process.cpuUsage();
  return { near: (own.user + own.system) / 1000, far: (cpu.user + cpu.system) / 1000 };
}

async function messageCost(far: Far, link: Path): Promise<BenchRow[]> {
  const { sizeBytes, count } = { sizeBytes: 16 * KIB, count: 2_000 };
  const [near, other]: [number[], number[]] = [[], []];
  for (let repetition = 0; repetition < REPETITIONS; repetition++) {
    const before = await cpuMs(far);
    await link(sizeBytes, count);
    const after = await cpuMs(far);
    near.push((after.near - before.near) / count);
    other.push((after.far - before.far) / count);
  }
  return [
    row("net: CPU of one 16 KiB message, sender", "ms", near, 4),
    row("net: CPU of one 16 KiB message, receiver", "ms", other, 4),
  ];
}

async function roundTrip(link: Path): Promise<BenchRow> {
  const times: number[] = [];
  for (let count = 0; count < ROUND_TRIPS; count++) {
    const startMs = performance.now();
    await link(SMALL_BYTES, 1);
    times.push((performance.now() - startMs) * 1000);
  }
  return row(`net: round trip of a ${SMALL_BYTES} B frame`, "µs", times, 0);
}

/** Takes about twenty seconds; starts a process and ends it. */
export async function benchNet(): Promise<BenchRow[]> {
  const far = await startFar();
  const opened = await Promise.all([rawPath(far), barePath(far), linkPath(far)]);
  try {
    const [[raw], [bare], [link]] = opened;
    return [...(await goodput({ raw, bare, link })), ...(await messageCost(far, link)), await roundTrip(link)];
  } finally {
    await Promise.all(opened.map(([, close]) => close()));
    far.process.disconnect();
  }
}

if (import.meta.main) console.table(await benchNet());
