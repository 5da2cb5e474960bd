/** @file What a node keeps on its disk for one job: its votes, and the highest step that it told a user. Another job's are void. */
import { rm } from "node:fs/promises";
import * as z from "zod";
import { ReportedStep } from "../../src/runtime/reported-step.ts";
import type { StateFolder } from "../../src/runtime/state-folder.ts";
import { VoteStore } from "../../src/runtime/vote-store.ts";
import type { Vote } from "../core/agreement.ts";
import type { RingView } from "../core/view.ts";
import { voteSchema } from "./control-messages.ts";
import { hex, ringViewSchema } from "./schemas.ts";

const recordSchema = z.strictObject({ job: hex, view: ringViewSchema, vote: voteSchema.nullable() });
type VoteRecord = z.infer<typeof recordSchema>;

export class NodeState {
  readonly #job: string;
  readonly #votes: VoteStore;
  readonly #loaded: VoteRecord | undefined;
  readonly #reported: ReportedStep;
  /** Set by whoever tells steps. */
  onDurable: (step: number) => void = () => {};

  private constructor(job: string, votes: VoteStore, reported: (state: NodeState) => ReportedStep) {
    this.#job = job;
    this.#votes = votes;
    const record = recordSchema.safeParse(votes.loaded);
    this.#loaded = record.success && record.data.job === job ? record.data : undefined;
    this.#reported = reported(this);
  }

  /**
   * @param isNew the job begins here: what an earlier run left in the folder is void
   * @param onFault nothing since this step is on the disk
   */
  static async open(
    folder: StateFolder,
    job: string,
    isNew: boolean,
    onFault: (step: number, error: Error) => void,
  ): Promise<NodeState> {
    if (isNew) await rm(folder.file("reported"), { force: true });
    const votes = await VoteStore.open(folder);
    let state: NodeState | undefined;
    const reported = await ReportedStep.open({
      ...{ folder, job },
      onDurable: (step) => state?.onDurable(step),
      onFault: (step, error) => {
        onFault(step, error);
        // Told all the same: what waits for this disk may have nothing behind it that would try again.
        state?.onDurable(Infinity);
      },
    });
    state = new NodeState(job, votes, () => reported);
    return state;
  }

  async save(view: RingView, vote: Vote<RingView> | null): Promise<void> {
    await this.#votes.save({ job: this.#job, view, vote });
  }

  /** What this node promised and accepted about the view after this one. */
  voteFor(view: number): Vote<RingView> | null {
    return this.#loaded?.view.view === view ? this.#loaded.vote : null;
  }

  /** The newest view that this node voted on, or was told, before it was restarted. */
  get view(): RingView | undefined {
    return this.#loaded?.view;
  }

  /** Steps that a user was told of. */
  get reported(): number {
    return this.#reported.durable + 1;
  }

  /** Whether steps can be made durable at present; where they cannot, they are told all the same. */
  get isDurable(): boolean {
    return this.#reported.notDurableSince === null;
  }

  /** `onDurable` follows. */
  note(step: number): void {
    this.#reported.note(step);
  }

  async close(): Promise<void> {
    await this.#reported.close();
  }
}
