/** @file A TCP port that passes every connection on to another one, counts them, and lets bytes through at a rate of its own. */
import { once } from "node:events";
import { connect, createServer, type AddressInfo, type Server, type Socket } from "node:net";

/** Little is read ahead, so that what waits does so at the sender. */
const READ_BYTES = 64 * 1024;

export class NarrowProxy {
  /** Connections that were made so far, and those of them that are open. */
  opened = 0;
  readonly #sockets = new Set<Socket>();
  readonly #server: Server;
  readonly #timers = new Set<NodeJS.Timeout>();

  private constructor(server: Server) {
    this.#server = server;
  }

  /** @param rateBytesPerMs of each connection, towards the target; the way back is not limited */
  static async start(targetPort: number, rateBytesPerMs = Infinity): Promise<NarrowProxy> {
    const server = createServer({ highWaterMark: READ_BYTES });
    const proxy = new NarrowProxy(server);
    server.on("connection", (near) => proxy.#pass(near, connect(targetPort, "127.0.0.1"), rateBytesPerMs));
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    return proxy;
  }

  /** The address that leads here instead. */
  in(address: string): string {
    const { port } = this.#server.address() as AddressInfo;
    return address.replace(/\/tcp\/\d+/, `/tcp/${port}`);
  }

  get open(): number {
    return this.#sockets.size;
  }

  close(): void {
    for (const timer of this.#timers) clearTimeout(timer);
    for (const socket of this.#sockets) socket.destroy();
    this.#server.close();
  }

  #pass(near: Socket, far: Socket, rateBytesPerMs: number): void {
    this.opened += 1;
    this.#sockets.add(near);
    near.on("data", (bytes: Buffer) => {
      far.write(bytes);
      if (rateBytesPerMs === Infinity) return;
      near.pause();
      const timer = setTimeout(() => {
        this.#timers.delete(timer);
        near.resume();
      }, bytes.byteLength / rateBytesPerMs);
      this.#timers.add(timer);
    });
    far.pipe(near);
    near.on("end", () => far.end());
    for (const [socket, other] of [
      [near, far],
      [far, near],
    ] as const) {
      socket.on("error", () => other.destroy());
      socket.on("close", () => {
        this.#sockets.delete(socket);
        other.destroy();
      });
    }
  }
}

/** The port in a multiaddress. */
export function portOf(address: string | undefined): number {
  return Number(/\/tcp\/(\d+)/.exec(address ?? "")?.[1]);
}
