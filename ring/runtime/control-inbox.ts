/**
 * @file Who speaks to this node over the control plane: nodes that look for a ring, and members of its own. What its hello says decides who
 * handles a stream; what nobody handles yet is refused.
 */
import { Link, type Decision } from "../../src/net/link.ts";
import type { Hello } from "../../src/net/hello.ts";
import type { Transport } from "../../src/net/transport.ts";

export const CONTROL_PROTOCOL = "/ringtmp/control/1";

/** What becomes of a stream. */
export interface Route {
  readonly decision: Decision;
  readonly accepted?: (link: Link) => void;
  /** It was to be accepted, and ended before. */
  readonly failed?: () => void;
}

/** Throws ProtocolError for a hello that is none of its. */
export type Router = (hello: Hello, peerId: string) => Route;

const notYet: Router = () => ({
  decision: { kind: "refuse", reason: "this node does not know its ring yet: join through another" },
});

export class ControlInbox {
  #newcomers = notYet;
  #members = notYet;
  /** Whether a member's process is connected to this one. */
  isConnected: (peerId: string, boot: number) => boolean = () => false;

  async listen(transport: Transport): Promise<void> {
    await transport.handle(CONTROL_PROTOCOL, (stream) => {
      let route: Route | undefined;
      const decide = (hello: Hello): Decision => {
        const router = hello["kind"] === "member" ? this.#members : this.#newcomers;
        route = router(hello, stream.remotePeer);
        return route.decision;
      };
      // A stranger that says nothing sensible is cut off by the link; the ring goes on.
      Link.accept(stream, decide).then(
        (link) => link !== undefined && route?.accepted?.(link),
        () => route?.failed?.(),
      );
    });
  }

  /** From now on nodes that look for a ring are answered by this. */
  newcomers(router: Router): void {
    this.#newcomers = router;
  }

  /** From now on members are; `isConnected` tells of the processes among them. */
  members(router: Router, isConnected: ControlInbox["isConnected"]): void {
    this.#members = router;
    this.isConnected = isConnected;
  }
}
