/** @file Nodes with dynamically allocated keys in this process, over any transport. */
import type { KeySpace } from "../../baseline-ps/localize/frames.ts";
import { KeyNode } from "../../baseline-ps/localize/key-node.ts";
import type { Transport } from "../../src/net/transport.ts";
import { soon } from "./memory-ring.ts";

export class KeyNodes implements AsyncDisposable {
  readonly nodes: readonly KeyNode[];
  readonly transports: readonly Transport[];

  private constructor(nodes: readonly KeyNode[], transports: readonly Transport[]) {
    this.nodes = nodes;
    this.transports = transports;
  }

  static async start({
    create,
    ...space
  }: KeySpace & { readonly create: () => Promise<Transport> }): Promise<KeyNodes> {
    const transports = await Promise.all(Array.from({ length: space.nodes }, create));
    const listening = transports.map((transport, node) => KeyNode.listen({ job: "job", node, transport, ...space }));
    const nodes = await Promise.all(listening);
    const addresses = transports.map((transport) => transport.addresses);
    await soon(Promise.all(nodes.map((node) => node.meet(addresses))), "the meeting");
    return new KeyNodes(nodes, transports);
  }

  /** What the keys have now. */
  async values(keys: number, length: number): Promise<Float32Array> {
    const into = new Float32Array(keys * length);
    await soon(this.nodes[0]!.wait(this.nodes[0]!.pull({ start: 0, end: keys }, into)), "a pull of all");
    return into;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await soon(Promise.allSettled(this.nodes.map((node) => node.close())), "the end");
    await Promise.all(this.transports.map((transport) => transport.close()));
  }
}
