/**
 * @file A client's requests: each has a timestamp, goes in parts to the servers that have its keys, and is finished when all have answered. One
 * that must wait for others is sent when those are finished (Li 2014, section 3.4: execute-after-finished). What is not answered in time is sent
 * again: servers know it by its timestamp. A request that was given up is never finished.
 */
import { assert } from "../../src/types/assert.ts";
import type { Machine } from "../../src/types/machine.ts";

export interface RequestsInit {
  readonly resendMs: number;
  /** Requests that are not finished. */
  readonly openMax: number;
}

export type RequestsInput =
  | {
      readonly kind: "issue";
      /** Servers, each once; at least one. */
      readonly servers: readonly number[];
      /** Timestamps of requests that must be finished before this one is sent. */
      readonly after: readonly number[];
      readonly nowMs: number;
    }
  | { readonly kind: "reply"; readonly timestamp: number; readonly server: number; readonly nowMs: number }
  /** The keys of an open request lie elsewhere now: what was answered of it is asked once more. */
  | {
      readonly kind: "cut";
      readonly timestamp: number;
      readonly servers: readonly number[];
      readonly nowMs: number;
    }
  /** It is not wanted any more, and nobody waits for it. */
  | { readonly kind: "abandon"; readonly timestamp: number }
  | { readonly kind: "tick"; readonly nowMs: number };

export type RequestsOutput =
  /** The server's part goes out; `oldest`: no request before this one is open. */
  | { readonly kind: "send"; readonly timestamp: number; readonly server: number; readonly oldest: number }
  | { readonly kind: "finished"; readonly timestamp: number };

interface Open {
  /** Requests that it waits for. */
  readonly after: Set<number>;
  /** Servers that have not answered. */
  servers: Set<number>;
  /** Undefined until it was sent. */
  sentMs: number | undefined;
}

export class Requests implements Machine<RequestsInput, RequestsOutput> {
  readonly #init: RequestsInit;
  /** In the order of their timestamps. */
  readonly #open = new Map<number, Open>();
  #next = 0;

  constructor(init: RequestsInit) {
    this.#init = init;
  }

  /** The next request's timestamp. */
  get next(): number {
    return this.#next;
  }

  /** Every request before this one is finished. */
  get oldest(): number {
    return this.#open.keys().next().value ?? this.#next;
  }

  get isFull(): boolean {
    return this.#open.size >= this.#init.openMax;
  }

  isFinished(timestamp: number): boolean {
    return timestamp < this.#next && !this.#open.has(timestamp);
  }

  handle(input: RequestsInput): readonly RequestsOutput[] {
    switch (input.kind) {
      case "issue":
        return this.#issue(input.servers, input.after, input.nowMs);
      case "reply":
        return this.#reply(input.timestamp, input.server, input.nowMs);
      case "cut":
        return this.#cut(input.timestamp, input.servers, input.nowMs);
      case "abandon":
        this.#open.delete(input.timestamp);
        return [];
      case "tick":
        return this.#resend(input.nowMs);
    }
  }

  #issue(servers: readonly number[], after: readonly number[], nowMs: number): RequestsOutput[] {
    assert(!this.isFull, `at most ${this.#init.openMax} requests are open`);
    assert(servers.length > 0, "a request goes to a server");
    const timestamp = this.#next;
    assert(
      after.every((earlier) => earlier < timestamp),
      "a request waits for earlier ones",
    );
    this.#next += 1;
    const open: Open = {
      after: new Set(after.filter((earlier) => this.#open.has(earlier))),
      servers: new Set(servers),
      sentMs: undefined,
    };
    this.#open.set(timestamp, open);
    return open.after.size > 0 ? [] : this.#send(timestamp, open, nowMs);
  }

  #send(timestamp: number, open: Open, nowMs: number): RequestsOutput[] {
    open.sentMs = nowMs;
    const { oldest } = this;
    return [...open.servers].map((server) => ({ kind: "send", timestamp, server, oldest }));
  }

  #reply(timestamp: number, server: number, nowMs: number): RequestsOutput[] {
    const open = this.#open.get(timestamp);
    // It may come twice, and late.
    if (open === undefined || !open.servers.delete(server) || open.servers.size > 0) return [];
    this.#open.delete(timestamp);
    const outputs: RequestsOutput[] = [{ kind: "finished", timestamp }];
    for (const [later, waiting] of this.#open) {
      if (waiting.after.delete(timestamp) && waiting.after.size === 0) {
        outputs.push(...this.#send(later, waiting, nowMs));
      }
    }
    return outputs;
  }

  #cut(timestamp: number, servers: readonly number[], nowMs: number): RequestsOutput[] {
    const open = this.#open.get(timestamp);
    if (open === undefined) return [];
    open.servers = new Set(servers);
    return open.sentMs === undefined ? [] : this.#send(timestamp, open, nowMs);
  }

  #resend(nowMs: number): RequestsOutput[] {
    return [...this.#open].flatMap(([timestamp, open]) =>
      open.sentMs === undefined || nowMs - open.sentMs < this.#init.resendMs ? [] : this.#send(timestamp, open, nowMs),
    );
  }
}
