/**
 * @file All streams of copies of one node in one view: to those that keep copies of its layers, from those whose layers are copied here, and
 * the fetches of what is missing. What is whole, and when a gradient may be applied, is the keeper's to say.
 */
import type { Settings } from "../../src/config/settings.ts";
import type { Transport } from "../../src/net/transport.ts";
import type { NodeTraffic } from "../core/copies.ts";
import type { KeeperInput, KeeperOutput } from "../core/keeper-messages.ts";
import { memberOf, peersOf, replicaHolders, type RingView } from "../core/view.ts";
import { fetchLayers, Follower, type ReplicaInbox } from "./replicas.ts";
import { movedBytes } from "./segments.ts";
import type { Store } from "./store.ts";

export interface CopyStreamsInit {
  readonly job: string;
  readonly settings: Settings;
  readonly transport: Transport;
  readonly inbox: ReplicaInbox;
  readonly store: Store;
  readonly mayReceive: (owner: number, step: number) => boolean;
  /** A part of a layer that was asked for. */
  readonly arrived: () => void;
  /** A stream of copies to or from this node broke while the view holds. */
  readonly ended: (view: RingView, other: number) => void;
  readonly tell: (input: KeeperInput) => void;
}

export class CopyStreams {
  readonly #init: CopyStreamsInit;
  /** Of the views before. */
  #earlier: NodeTraffic = { sent: 0, received: 0 };
  #followers: readonly { readonly follower: Follower; readonly isSpare: boolean }[] = [];

  constructor(init: CopyStreamsInit) {
    this.#init = init;
    const { inbox, job, store } = init;
    inbox.serve(job, (version, layers) => store.copies(version, layers));
  }

  /** The node's own layers are here: copies of them may be made, and copies of others' be fed. */
  open(view: RingView, node: number): void {
    const { job, transport, inbox, store, mayReceive, ended, tell } = this.#init;
    inbox.install({
      ...{ job, view: view.view, restoreStep: view.restoreStep, isSpare: !view.owners.includes(node) },
      ...{ memory: store.compute.memory, mayReceive },
      ownerOf: (peerId) => view.members.find((member) => member.peerId === peerId)?.node,
      layoutsOf: (owner) => store.replicasOf(owner),
      gradient: (owner, step, loss) => tell({ kind: "gradient", view: view.view, owner, step, loss }),
      frontier: (version) => tell({ kind: "frontier", view: view.view, version }),
      ended: (owner) => ended(view, owner),
    });
    const holders = view.owners.includes(node) ? replicaHolders(view, node) : [];
    this.#followers = holders.map((holder) => ({
      isSpare: !view.owners.includes(holder),
      follower: new Follower({
        ...{ transport, addresses: memberOf(view, holder)!.addresses, job, view: view.view, owner: node },
        applied: (applied) => tell({ kind: "applied", view: view.view, from: holder, ...applied }),
        ended: () => ended(view, holder),
      }),
    }));
  }

  /** The gradient of `step`, as it stands in the memory of the compute thread, goes to all copies. */
  send(step: number, loss: number): void {
    if (this.#followers.length === 0) return;
    const { layouts, memory } = this.#init.store.compute;
    const gradients = layouts.flatMap(({ layers }) =>
      layers.map(({ index, outgoing }) => ({ layer: index, bytes: memory.bytes(outgoing!.all) })),
    );
    for (const { follower } of this.#followers) void follower.send(step, loss, gradients);
  }

  /** To those that no frame of the ring reaches. */
  tellFrontier(version: number): void {
    for (const { follower, isSpare } of this.#followers) if (isSpare) follower.tellFrontier(version);
  }

  async fetch(view: RingView, { from, version, layers }: Extract<KeeperOutput, { kind: "fetch" }>): Promise<void> {
    const { transport, job, settings, store, arrived: partArrived } = this.#init;
    const sizes = movedBytes(settings);
    const addresses = peersOf(view).find(({ node }) => node === from)?.addresses;
    if (addresses !== undefined) {
      const arrived = (block: Parameters<Store["add"]>[1]): void => store.add(view.view, block);
      await fetchLayers({
        transport,
        addresses,
        job,
        version,
        layers,
        sizeOf: (layer) => sizes[layer]!,
        partArrived,
        arrived,
      });
    }
    store.fetchEnded(view.view, from);
  }

  /** The view is over. */
  close(): void {
    this.#earlier = this.traffic;
    for (const { follower } of this.#followers) follower.stop();
    this.#followers = [];
    this.#init.inbox.remove();
  }

  /** In all views: gradients that left for copies and came for those here, and what each copy said it holds. */
  get traffic(): NodeTraffic {
    const ends = [this.#earlier, this.#init.inbox.traffic, ...this.#followers.map(({ follower }) => follower.traffic)];
    return {
      sent: ends.reduce((sum, { sent }) => sum + sent, 0),
      received: ends.reduce((sum, { received }) => sum + received, 0),
    };
  }
}
