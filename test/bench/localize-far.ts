/** @file One process of the benchmark of dynamic allocation: a node that does what it is told, one order after the other. */
import { KeyNode } from "../../baseline-ps/localize/key-node.ts";
import type { KeyRange } from "../../baseline-ps/core/ranges.ts";
import { createLibp2pTransport, type Libp2pTransportInit } from "../../src/net/libp2p.ts";
import { nowMs } from "../../src/runtime/clock.ts";

export interface NodesGroup {
  readonly encryption: NonNullable<Libp2pTransportInit["encryption"]>;
  readonly nodes: number;
  readonly keys: number;
  readonly length: number;
}

export type NodeOrder =
  | { readonly kind: "listen"; readonly node: number; readonly group: NodesGroup }
  | { readonly kind: "meet"; readonly addresses: readonly (readonly string[])[] }
  /** Becomes the owner of all these, at once. */
  | { readonly kind: "own"; readonly keys: KeyRange }
  /** One key after the other, each to its end. */
  | { readonly kind: "time"; readonly what: "pull" | "localize"; readonly keys: readonly number[] }
  /** So often, one key after the other, all of which are here. */
  | { readonly kind: "timeLocal"; readonly what: "pull" | "push"; readonly keys: number; readonly count: number };

export type NodeAnswer = { readonly addresses?: readonly string[]; readonly timesMs?: readonly number[] };

let node: KeyNode | undefined;
let values = new Float32Array(0);

async function obey(order: NodeOrder): Promise<NodeAnswer> {
  switch (order.kind) {
    case "listen": {
      const { encryption, ...space } = order.group;
      const transport = await createLibp2pTransport({ listen: ["/ip4/127.0.0.1/tcp/0"], encryption });
      node = await KeyNode.listen({ job: "bench", node: order.node, transport, ...space });
      values = new Float32Array(space.length);
      return { addresses: transport.addresses };
    }
    case "meet":
      await node!.meet(order.addresses);
      return {};
    case "own":
      await node!.wait(node!.localize(order.keys));
      return {};
    case "time":
      return { timesMs: await time(node!, order) };
    case "timeLocal":
      return { timesMs: [timeLocal(node!, order)] };
  }
}

async function time(own: KeyNode, { what, keys }: Extract<NodeOrder, { kind: "time" }>): Promise<readonly number[]> {
  const timesMs: number[] = [];
  for (const key of keys) {
    const startMs = nowMs();
    await own.wait(what === "pull" ? own.pull([key], values) : own.localize([key]));
    timesMs.push(nowMs() - startMs);
  }
  return timesMs;
}

function timeLocal(own: KeyNode, { what, keys, count }: Extract<NodeOrder, { kind: "timeLocal" }>): number {
  const startMs = nowMs();
  for (let index = 0, key = 0; index < count; index += 1, key = (key + 1) % keys) {
    if (what === "pull") own.pull([key], values);
    else own.push([key], values);
  }
  return (nowMs() - startMs) / count;
}

if (import.meta.main) {
  process.on("message", (order: NodeOrder) => void obey(order).then((answer) => process.send?.(answer)));
  process.on("disconnect", () => process.exit());
}
