/**
 * @file Other runs whose keys a server's process takes beside its own run's. Their launchers ask at its control socket, so they are of the same user
 * on this machine. It serves them to their end, also where its own run has ended before.
 */
import * as z from "zod";
import { joinParameterServer, type Live, type PsJob, type PsRole, type ServedJobs } from "../../baseline-ps/index.ts";
import { RunFolder } from "../metrics/run-folder.ts";
import type { Transport } from "../net/transport.ts";
import type { Obeyed } from "../runtime/process-control.ts";
import type { Logger } from "../runtime/process-log.ts";

/** Whose servers to become: the addresses of the run's manager, and its folder. */
const invitationSchema = z.strictObject({
  manager: z.array(z.string().max(1024)).min(1).max(16).readonly(),
  out: z.string().max(4096),
});
export type Invitation = z.infer<typeof invitationSchema>;

export interface GuestRunsInit {
  /** Also in every other run. */
  readonly role: PsRole;
  readonly transport: Transport;
  readonly served: ServedJobs;
  readonly log: Logger | undefined;
  /** Answers questions about that run. */
  readonly answerFor: (job: PsJob, folder: RunFolder, live: () => Live) => Promise<{ close(): void } | undefined>;
  /** Folders of the runs that are served now. */
  readonly onChanged: (outs: readonly string[]) => void;
}

function invitationOf(text: string): Invitation | undefined {
  try {
    return invitationSchema.parse(JSON.parse(text));
  } catch {
    return undefined;
  }
}

/** A server is not asked for these. */
const OF_OTHERS = {
  data: () => Promise.reject(new Error("a server has no data")),
  events: { onReady: () => {}, onCommitted: () => {}, onNotDurable: () => {} },
};

export class GuestRuns {
  readonly #init: GuestRunsInit;
  readonly #running = new Map<Invitation, Promise<void>>();
  #isOpen = true;

  constructor(init: GuestRunsInit) {
    this.#init = init;
  }

  /** @param text an invitation as JSON */
  take(text: string): Obeyed {
    if (!this.#isOpen) return { isDone: false, reason: "the run that its servers belong to has ended" };
    const invitation = invitationOf(text);
    if (invitation === undefined) return { isDone: false, reason: "that is no invitation" };
    const ended = this.#serve(invitation).finally(() => {
      this.#running.delete(invitation);
      this.#changed();
    });
    this.#running.set(invitation, ended);
    this.#changed();
    return { isDone: true };
  }

  /** Takes no more, and waits for those that there are. */
  async close(): Promise<void> {
    this.#isOpen = false;
    await Promise.all(this.#running.values());
  }

  /** How it ends is told there, by its own manager. Never rejects. */
  async #serve({ manager, out }: Invitation): Promise<void> {
    const { role, transport, served, log, answerFor } = this.#init;
    const folder = new RunFolder(out);
    let control: ReturnType<GuestRunsInit["answerFor"]> | undefined;
    log?.info({ out }, "serves another run as well");
    try {
      await joinParameterServer({
        ...{ ...OF_OTHERS, roles: [role], manager, transport, served, folder, engine: "auto" },
        onJob: (job, live) => {
          control = answerFor(job, folder, live);
        },
      });
      log?.info({ out }, "has served it to its end");
    } catch (error) {
      log?.warn({ out, error: String(error) }, "it has failed");
    } finally {
      (await control)?.close();
    }
  }

  #changed(): void {
    this.#init.onChanged([...this.#running.keys()].map(({ out }) => out));
  }
}
