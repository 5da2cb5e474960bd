/** @file What the user of a link gives it, and what it tells. */
import type { Destination, Frame } from "../wire/decoder.ts";
import type { Hello } from "./hello.ts";
import type { Link } from "./link.ts";

/** What a side does with the frames that it receives. */
export interface Receiver {
  /**
   * Called when a frame's header has arrived, possibly while earlier frames are still being handled: each call gives
   * memory of its own. Throws a ProtocolError for a frame that this edge does not expect.
   */
  readonly destination: Destination;
  /**
   * Called for one frame at a time, in order. The frame's bytes are granted to the sender when it returns, or when its
   * promise resolves: a handler that waits for its own `send` to a peer that does the same can wait for ever. A
   * ProtocolError refuses the frame; any other error ends the link as `failed`.
   */
  readonly handle: (frame: Frame, link: Link) => void | Promise<void>;
  /**
   * Undefined where frames may be taken; else resolves when they may. Until then no frame is handled and no place asked for: who needs each frame
   * handled before the next one's header is looked at must not wait in `handle`. Grants for what this side sends on the link wait as well.
   */
  readonly gate?: () => Promise<void> | undefined;
  /** How many bytes the peer may send ahead of `handle`; a single frame may be larger. */
  readonly windowBytes?: number;
}

export type Decision =
  | { readonly kind: "accept"; readonly answer: Hello; readonly receiver: Receiver }
  | { readonly kind: "refuse"; readonly reason: string };

export type LinkEnd =
  /** Both sides said GOODBYE, and every frame before it was handled. */
  | { readonly kind: "goodbye" }
  /** The stream ended without GOODBYE: the peer may be dead. */
  | { readonly kind: "lost" }
  /** A frame, or the hello, broke the protocol; `by` is who said so. */
  | { readonly kind: "refused"; readonly by: "us" | "peer"; readonly reason: string }
  /** Our handler threw. */
  | { readonly kind: "failed"; readonly error: unknown };

export interface LinkCounters {
  readonly bytes: number;
  readonly messages: number;
}
