/**
 * @file A voter's memory: the one small record that it must not forget, in two slots with the same content. A slot that is damaged is named
 * and the other one counts; since `save` resolves only when both are durable, that loses no vote that was told to anybody.
 */
import { isDeepStrictEqual } from "node:util";
import * as z from "zod";
import { assert } from "../types/assert.ts";
import { DataError } from "../types/errors.ts";
import { CONTROL_BYTES_MAX } from "../wire/header.ts";
import { type FileSystem, nodeFileSystem, writeDurably } from "./durable.ts";
import { readRecord, sealRecord } from "./sealed-record.ts";
import { STATE_REMEDY, type StateFolder } from "./state-folder.ts";

const SLOTS = ["vote.0", "vote.1"] as const;
/** The present view and the next, each as it came in one message. */
export const VOTE_BYTES_MAX = 2 * CONTROL_BYTES_MAX;

const slotSchema = z.strictObject({ sequence: z.int().min(1), vote: z.unknown() });
type Slot = z.infer<typeof slotSchema>;

export class VoteStore {
  /** What was saved last, as parsed JSON for the caller to check; undefined: nothing yet. */
  readonly loaded: unknown;
  /** One line a slot that was damaged, and was written anew from the other one. */
  readonly damaged: readonly string[];
  readonly #files: readonly string[];
  readonly #fileSystem: FileSystem;
  #sequence: number;
  #isSaving = false;

  private constructor(
    files: readonly string[],
    found: Slot | undefined,
    damaged: readonly string[],
    fileSystem: FileSystem,
  ) {
    this.#files = files;
    this.#sequence = found?.sequence ?? 0;
    this.loaded = found?.vote;
    this.damaged = damaged;
    this.#fileSystem = fileSystem;
  }

  /** Throws DataError where no slot is whole but one exists, since a forgotten vote is worse than a stop; and where a slot that is missing
   * or behind cannot be written anew. */
  static async open(folder: StateFolder, fileSystem: FileSystem = nodeFileSystem): Promise<VoteStore> {
    const files = SLOTS.map((name) => folder.file(name));
    const slots = await Promise.all(files.map(readSlot));
    const whole = slots.filter((slot): slot is Slot => slot !== undefined && !(slot instanceof DataError));
    const damaged = slots.filter((slot) => slot instanceof DataError);
    const newest = whole.toSorted((a, b) => b.sequence - a.sequence)[0];
    if (newest === undefined && damaged[0] !== undefined) throw damaged[0];
    const store = new VoteStore(
      files,
      newest,
      damaged.map(({ message }) => message),
      fileSystem,
    );
    // From here on this vote may be told: it must not hang on one slot.
    if (newest !== undefined && !slots.every((slot) => isDeepStrictEqual(slot, newest))) await store.#write(newest);
    return store;
  }

  /**
   * `vote`: anything that JSON can hold, at most VOTE_BYTES_MAX; one save at a time. Rejects with DataError where it could not be made durable: the
   * voter then abstains. After a crash the slots hold this vote or the one before, and the one before only if `save` had not resolved.
   */
  async save(vote: unknown): Promise<void> {
    assert(!this.#isSaving, "one vote is saved at a time");
    assert(Buffer.byteLength(JSON.stringify(vote)) <= VOTE_BYTES_MAX, `a vote has at most ${VOTE_BYTES_MAX} bytes`);
    this.#isSaving = true;
    try {
      await this.#write({ sequence: this.#sequence + 1, vote });
      this.#sequence += 1;
    } finally {
      this.#isSaving = false;
    }
  }

  async #write(slot: Slot): Promise<void> {
    const record = sealRecord(slot);
    const options = { mode: 0o600, fileSystem: this.#fileSystem };
    const written = await Promise.allSettled(this.#files.map((file) => writeDurably(file, record, options)));
    for (const result of written) if (result.status === "rejected") throw result.reason;
  }
}

async function readSlot(file: string): Promise<Slot | DataError | undefined> {
  try {
    const fields = await readRecord(file, ["sequence", "vote"], STATE_REMEDY);
    if (fields === undefined) return undefined;
    const slot = slotSchema.safeParse(fields);
    return slot.success ? slot.data : new DataError(`${file}: its sequence is not of this version`, STATE_REMEDY);
  } catch (error) {
    if (error instanceof DataError) return error;
    throw error;
  }
}
