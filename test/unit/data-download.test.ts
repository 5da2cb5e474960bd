/** @file Downloads against a server on this machine: whole files or none, the next mirror, errors with a remedy. */
import { createHash } from "node:crypto";
import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { createServer, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { downloadDataSet, downloadFiles, type DownloadSource } from "../../src/data/download.ts";
import { failureOf } from "../helpers/failures.ts";

const content = Buffer.alloc(300_000, "ring");
const md5 = createHash("md5").update(content).digest("hex");

let folder: string;
let server: Server;
let base: string;
let requests: string[];
const answers: Record<string, (response: ServerResponse) => void> = {
  "/good/a.gz": (response) => response.end(content),
  "/good/b.gz": (response) => response.end(content),
  "/other/a.gz": (response) => response.end("something else"),
  "/torn/a.gz": (response) => {
    response.writeHead(200, { "content-length": content.length });
    response.write(content.subarray(0, 1_000), () => response.destroy());
  },
  "/huge/a.gz": (response) => {
    const more = (): void => void response.write(Buffer.alloc(2 ** 20));
    response.on("drain", more);
    more();
  },
  "/mute/a.gz": (response) => void response.write("first"),
};

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "ringtmp-download-"));
  requests = [];
  server = createServer((request, response) => {
    requests.push(request.url ?? "");
    const answer = answers[request.url ?? ""];
    if (answer) answer(response);
    else response.writeHead(404).end();
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  base = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
});
afterEach(async () => {
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
  await rm(folder, { recursive: true });
});

const source = (...mirrors: string[]): DownloadSource => ({
  mirrors: mirrors.map((mirror) => `${base}/${mirror}/`),
  files: [{ name: "a.gz", md5 }],
});

describe("downloadFiles", () => {
  it("makes the folder, writes whole files and leaves nothing else", async () => {
    const target = join(folder, "new", "folder");
    const files = ["a.gz", "b.gz"].map((name) => ({ name, md5 }));
    const seen: Record<string, number> = {};
    await downloadFiles({ ...source("good"), files }, target, {
      onProgress: ({ file, receivedBytes }) => (seen[file] = receivedBytes),
    });
    expect((await readdir(target)).toSorted()).toEqual(["a.gz", "b.gz"]);
    expect(await readFile(join(target, "b.gz"))).toEqual(content);
    expect(seen).toEqual({ "a.gz": content.length, "b.gz": content.length });
  });

  it("asks nobody for a file that is there, and does not touch one with other content", async () => {
    await writeFile(join(folder, "a.gz"), content);
    await downloadFiles(source("good"), folder, {});
    await writeFile(join(folder, "a.gz"), "mine");
    const failure = await failureOf(downloadFiles(source("good"), folder, {}));
    expect(failure).toMatch(/^DataError: .*a\.gz exists and is not the published file \| remove it/);
    expect(await readFile(join(folder, "a.gz"), "utf8")).toBe("mine");
    expect(requests).toEqual([]);
  });

  it.each(["missing", "other", "torn", "huge"])("goes to the next mirror when one is %s", async (bad) => {
    await downloadFiles(source(bad, "good"), folder, {});
    expect(requests).toEqual([`/${bad}/a.gz`, "/good/a.gz"]);
    expect(await readdir(folder)).toEqual(["a.gz"]);
  });

  it.each([
    ["missing", /^NetworkError: cannot download .*\/missing\/a\.gz: status 404 \| check the network/],
    ["other", /^DataError: .*\/other\/a\.gz has the MD5 [0-9a-f]{32}, expected [0-9a-f]{32} \| /],
    ["torn", /^NetworkError: cannot download .*\/torn\/a\.gz: terminated/],
    ["huge", /^NetworkError: .*more than 67108864 bytes/],
  ])("leaves no file when the only mirror is %s", async (bad, message) => {
    expect(await failureOf(downloadFiles(source(bad), folder, {}))).toMatch(message);
    expect(await readdir(folder)).toEqual([]);
  });

  it("says when the network is not there", async () => {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
    const failure = await failureOf(downloadFiles(source("good"), folder, {}));
    expect(failure).toMatch(/^NetworkError: cannot download .*ECONNREFUSED.* \| check the network.*--data-dir/);
  });

  it("ends at once when it is interrupted, and asks no further mirror", async () => {
    const controller = new AbortController();
    const failure = await failureOf(
      downloadFiles(source("mute", "good"), folder, {
        signal: controller.signal,
        onProgress: () => controller.abort(),
      }),
    );
    expect(failure).toMatch(/^InterruptedError: the download of a\.gz was interrupted/);
    expect(requests).toEqual(["/mute/a.gz"]);
    expect(await readdir(folder)).toEqual([]);
  });

  it("gives up a mirror that falls silent, and not before", async () => {
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
    try {
      let send: (chunk: Uint8Array) => void = () => undefined;
      let settled = false;
      const silent: typeof fetch = (_, init) => {
        const body = new ReadableStream<Uint8Array>({
          start(controller) {
            send = (chunk) => controller.enqueue(chunk);
            init?.signal?.addEventListener("abort", () => controller.error(init.signal?.reason));
          },
        });
        return Promise.resolve(new Response(body));
      };
      const failure = failureOf(downloadFiles(source("any"), folder, { fetch: silent })).finally(
        () => (settled = true),
      );
      await vi.waitUntil(() => vi.getTimerCount() === 1);
      await vi.advanceTimersByTimeAsync(29_000);
      send(Buffer.from("a sign of life"));
      await vi.advanceTimersByTimeAsync(29_000);
      expect(settled).toBe(false);
      await vi.advanceTimersByTimeAsync(1_000);
      expect(await failure).toMatch(/^NetworkError: .*silent for 30 s/);
    } finally {
      vi.useRealTimers();
    }
  });

  it("says when the folder cannot be written", async () => {
    await writeFile(join(folder, "file"), "");
    const failure = await failureOf(downloadFiles(source("good"), join(folder, "file", "below"), {}));
    expect(failure).toMatch(/^DataError: cannot write .* \| .*--data-dir/);
  });
});

describe("downloadDataSet", () => {
  it("asks the published addresses, in order", async () => {
    const asked: string[] = [];
    const offline = (url: string | URL | Request): Promise<Response> => {
      asked.push(url instanceof Request ? url.url : url.toString());
      return Promise.reject(new TypeError("fetch failed", { cause: new Error("no route") }));
    };
    expect(await failureOf(downloadDataSet("mnist", folder, { fetch: offline }))).toContain("fetch failed (no route)");
    expect(await failureOf(downloadDataSet("fashion-mnist", folder, { fetch: offline }))).toMatch(/^NetworkError/);
    expect(asked).toEqual([
      "https://ossci-datasets.s3.amazonaws.com/mnist/train-images-idx3-ubyte.gz",
      "https://storage.googleapis.com/cvdf-datasets/mnist/train-images-idx3-ubyte.gz",
      "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/train-images-idx3-ubyte.gz",
    ]);
  });
});
