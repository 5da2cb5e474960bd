/**
 * @file What a node keeps over its restarts: who it is (`identity.key`), and beside it its votes and the step that it reported. One live
 * process has the folder to itself. A wiped folder is a new member: the incarnation is made with it.
 */
import { randomBytes } from "node:crypto";
import { mkdir, readdir } from "node:fs/promises";
import { join, resolve } from "node:path";
import * as z from "zod";
import { DataError, UsageError } from "../types/errors.ts";
import { removeLeftovers, writeDurably } from "./durable.ts";
import { lockFolder } from "./process-lock.ts";
import { readRecord, sealRecord } from "./sealed-record.ts";

const IDENTITY = "identity.key";
const BOOTS = "boots";
/** Damaged state is never replaced silently: what was promised in it would be forgotten. */
export const STATE_REMEDY = "restore it from a copy, or move its folder away: the node then joins as a new member";

const FORMAT = "ringtmp-identity-1";
const identitySchema = z.strictObject({
  format: z.literal(FORMAT),
  seed: z.string().regex(/^[0-9a-f]{64}$/),
  incarnation: z.string().regex(/^[0-9a-f]{32}$/),
});

export interface Identity {
  /** Of the peer's private key, 32 bytes: a secret. */
  readonly seed: Uint8Array;
  /** A random 128-bit number, 32 hexadecimal digits. */
  readonly incarnation: string;
}

export class StateFolder {
  readonly path: string;
  readonly identity: Identity;
  /** Starts on this folder, this one included. */
  readonly boot: number;
  readonly #release: () => Promise<void>;

  private constructor(path: string, identity: Identity, boot: number, release: () => Promise<void>) {
    this.path = path;
    this.identity = identity;
    this.boot = boot;
    this.#release = release;
  }

  /**
   * Makes the folder where it is missing. Throws UsageError where a live process has it or where it cannot be made, DataError where the
   * identity is damaged or cannot be written.
   */
  static async open(path: string): Promise<StateFolder> {
    const folder = resolve(path);
    try {
      await mkdir(folder, { recursive: true, mode: 0o700 });
    } catch (cause) {
      throw new UsageError(`${folder} cannot be made: ${(cause as Error).message}`, "name another folder", { cause });
    }
    const release = await lockFolder(folder);
    try {
      await removeLeftovers(folder);
      const identity = (await readIdentity(folder)) ?? (await createIdentity(folder));
      return new StateFolder(folder, identity, await countBoot(folder), release);
    } catch (error) {
      await release();
      throw error;
    }
  }

  file(name: string): string {
    return join(this.path, name);
  }

  /** Leaves the folder to other processes. */
  async close(): Promise<void> {
    await this.#release();
  }
}

async function readIdentity(folder: string): Promise<Identity | undefined> {
  const file = join(folder, IDENTITY);
  const fields = await readRecord(file, ["format", "seed", "incarnation"], STATE_REMEDY);
  if (fields === undefined) return undefined;
  const parsed = identitySchema.safeParse(fields);
  if (!parsed.success) {
    const field = String(parsed.error.issues[0]?.path[0]);
    throw new DataError(`${file}: its ${field} is not of this version`, STATE_REMEDY);
  }
  return { seed: Buffer.from(parsed.data.seed, "hex"), incarnation: parsed.data.incarnation };
}

/** Others tell a process from the one before it by this: it must be on the disk before it is told. */
async function countBoot(folder: string): Promise<number> {
  const file = join(folder, BOOTS);
  const fields = await readRecord(file, ["boots"], STATE_REMEDY);
  const boots = z
    .int()
    .min(0)
    .safeParse(fields?.boots ?? 0);
  if (!boots.success) throw new DataError(`${file}: its boots are not of this version`, STATE_REMEDY);
  const boot = boots.data + 1;
  await writeDurably(file, sealRecord({ boots: boot }), { mode: 0o600 });
  return boot;
}

async function createIdentity(folder: string): Promise<Identity> {
  const file = join(folder, IDENTITY);
  const orphan = (await readdir(folder)).find((name) => /^(?:vote|reported)/.test(name));
  if (orphan !== undefined) throw new DataError(`${file} is missing, and ${orphan} is there`, STATE_REMEDY);
  const seed = randomBytes(32);
  const incarnation = randomBytes(16).toString("hex");
  const record = sealRecord({ format: FORMAT, seed: seed.toString("hex"), incarnation });
  await writeDurably(file, record, { mode: 0o600 });
  return { seed, incarnation };
}
