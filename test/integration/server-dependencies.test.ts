/**
 * @file Requests that wait for others (Li 2014, section 3.4 and figure 4: execute-after-finished), shown by what goes over the wire: a request is
 * sent when all that it names are finished, and waits for no other.
 */
import { expect, test } from "vitest";
import { MemoryNetwork } from "../../src/net/memory.ts";
import type { ByteStream, Transport } from "../../src/net/transport.ts";
import { FrameKind, HEADER_BYTES, readHeader } from "../../src/wire/header.ts";
import { KeyGroup } from "../helpers/key-group.ts";
import { soon } from "../helpers/memory-ring.ts";

const KEYS = 8;
const network = new MemoryNetwork();
let members = 0;

/** What one client says and hears, in order. */
class History {
  readonly lines: string[] = [];
  readonly #names = new Map<number, string>();

  /** Over which the client dials. */
  tap(transport: Transport): Transport {
    const dial = transport.dial.bind(transport);
    transport.dial = async (...given) => this.#tapped(await dial(...given));
    return transport;
  }

  #tapped(stream: ByteStream): ByteStream {
    const write = stream.write.bind(stream);
    stream.write = (bytes, ownership) => {
      if (bytes.byteLength >= HEADER_BYTES) this.#said(bytes.subarray(0, HEADER_BYTES));
      return write(bytes, ownership);
    };
    return stream;
  }

  #said(bytes: Uint8Array): void {
    try {
      const { kind, job } = readHeader(bytes);
      if (kind === FrameKind.pull) this.lines.push(`${this.#names.get(Number(job)) ?? job} is sent`);
    } catch {
      // What opens the link is no frame.
    }
  }

  name(timestamp: number, name: string): void {
    this.#names.set(timestamp, name);
  }
}

/** Names what a request will be called before it is made: it may leave at once. */
class Client {
  readonly history: History;
  readonly #group: KeyGroup;
  #next = 0;

  constructor(group: KeyGroup, history: History) {
    [this.#group, this.history] = [group, history];
  }

  pull(name: string, keys: readonly [number, number], leastVersion: number, after: readonly number[] = []): number {
    this.history.name(this.#next, name);
    const [start, end] = keys;
    const client = this.#group.clients[0]!;
    const timestamp = client.pull({ start, end }, new Float32Array(end - start), { leastVersion, after });
    expect(timestamp).toBe(this.#next++);
    void client.wait(timestamp).then(() => this.history.lines.push(`${name} is finished`));
    return timestamp;
  }

  async finished(timestamp: number): Promise<void> {
    await soon(this.#group.clients[0]!.wait(timestamp), "an answer");
  }

  /** A step of the keys from `start` to `end`: what waits for their next version is answered. */
  async step(start: number, end: number, step = 0): Promise<void> {
    const client = this.#group.clients[1]!;
    const pushes = [0, 1].map((share) => client.push({ start, end }, new Float32Array(end - start), { step, share }));
    for (const pushed of pushes) await soon(client.wait(pushed), "a push");
  }
}

async function startWith(servers: number): Promise<{ readonly group: KeyGroup; readonly client: Client }> {
  const history = new History();
  const create = async (): Promise<Transport> => {
    const transport = network.join(`dependent${members++}`);
    // Servers come first, then the clients: the first of them is watched.
    return created++ === servers ? history.tap(transport) : transport;
  };
  let created = 0;
  const group = await KeyGroup.start({ create, keys: KEYS, servers, clients: 2, consistency: { kind: "bsp", tau: 0 } });
  return { group, client: new Client(group, history) };
}

test.each([1, 2])("12 waits for 11, and 11 does not wait for 10, on %i servers", async (servers) => {
  const { group, client } = await startWith(servers);
  await using _ = group;
  // Its answer is held back until there is a first step.
  const ten = client.pull("10", [0, KEYS], 1);
  const eleven = client.pull("11", [0, KEYS], 0);
  const twelve = client.pull("12", [0, KEYS], 0, [eleven]);
  await client.finished(twelve);
  await client.step(0, KEYS);
  await client.finished(ten);
  const onEach = (line: string): string[] => Array.from({ length: servers }, () => line);
  expect(client.history.lines).toEqual([
    ...[...onEach("10 is sent"), ...onEach("11 is sent")],
    ...["11 is finished", ...onEach("12 is sent"), "12 is finished"],
    "10 is finished",
  ]);
});

test("a chain and a diamond over two servers, of which one holds its answers back", async () => {
  const { group, client } = await startWith(2);
  await using _ = group;
  const [quick, slow] = [
    [0, 4],
    [4, 8],
  ] as const;
  // a before b and c, both before d; e follows d. c is of the server that answers late.
  const a = client.pull("a", quick, 0);
  const b = client.pull("b", quick, 0, [a]);
  const c = client.pull("c", slow, 1, [a]);
  const d = client.pull("d", [2, 6], 0, [b, c]);
  const e = client.pull("e", quick, 0, [d]);
  const f = client.pull("f", quick, 0);
  await client.finished(b);
  await client.finished(f);
  expect(client.history.lines.toSorted()).toEqual(
    ["a is sent", "f is sent", "a is finished", "b is sent", "c is sent", "f is finished", "b is finished"].toSorted(),
  );
  await client.step(...slow);
  await client.finished(e);
  const { lines } = client.history;
  expect(lines.slice(0, 2)).toEqual(["a is sent", "f is sent"]);
  expect(lines.indexOf("b is sent")).toBeGreaterThan(lines.indexOf("a is finished"));
  expect(lines.slice(7)).toEqual([
    ...["c is finished", "d is sent", "d is sent", "d is finished"],
    ...["e is sent", "e is finished"],
  ]);
});

test("a request that names one that is finished already, or none, is sent at once", async () => {
  const { group, client } = await startWith(1);
  await using _ = group;
  const first = client.pull("first", [0, 3], 0);
  await client.finished(first);
  const second = client.pull("second", [3, 5], 0, [first]);
  await client.finished(second);
  expect(client.history.lines).toEqual(["first is sent", "first is finished", "second is sent", "second is finished"]);
});
