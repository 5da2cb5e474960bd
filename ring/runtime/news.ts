/**
 * @file Announcements by name: each is taken once, and kept for those whom it did not reach. 1. A control stream breaks while a report is on it,
 * or two members cannot reach each other while all others can. 2. Nobody tells it again by itself. 3. Who lacks it asks all others for it by name.
 */
import { unreachable } from "../../src/types/assert.ts";
import type { AnnouncementBody } from "./messages.ts";

/** Of checkpoints and evaluations the newest are kept: who lacks an older one does without. */
const KEPT_MAX = 256;

/** What is needed of an announcement to name it. */
type Named =
  | { readonly kind: "saved"; readonly step: number; readonly shard: { readonly layers: readonly [number, number] } }
  | Pick<Extract<AnnouncementBody, { kind: "notSaved" }>, "kind" | "step" | "layers">
  | Pick<Extract<AnnouncementBody, { kind: "evaluated" }>, "kind" | "step">
  | { readonly kind: "report"; readonly report: { readonly node: number } }
  | { readonly kind: "failure" };

/** A segment was saved or was not: both have one name. */
export function nameOf(body: Named): string {
  switch (body.kind) {
    case "saved":
      return `saved ${body.step} ${body.shard.layers[0]}`;
    case "notSaved":
      return `saved ${body.step} ${body.layers[0]}`;
    case "evaluated":
      return `evaluated ${body.step}`;
    case "report":
      return `report ${body.report.node}`;
    case "failure":
      return "failure";
  }
  return unreachable(body);
}

export class News {
  readonly #reports = new Map<string, AnnouncementBody>();
  /** In the order in which they came. */
  readonly #others = new Map<string, AnnouncementBody>();

  /** False where it is here already. */
  add(body: AnnouncementBody): boolean {
    const name = nameOf(body);
    const bodies = body.kind === "report" ? this.#reports : this.#others;
    if (bodies.has(name)) return false;
    bodies.set(name, body);
    for (const oldest of this.#others.keys()) if (this.#others.size > KEPT_MAX) this.#others.delete(oldest);
    return true;
  }

  find(names: readonly string[]): readonly AnnouncementBody[] {
    return names.flatMap((name) => this.#reports.get(name) ?? this.#others.get(name) ?? []);
  }
}
