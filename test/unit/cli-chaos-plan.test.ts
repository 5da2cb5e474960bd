/** @file Which faults `chaos` draws: what is refused, what a seed fixes, and that every node and kind has its turn. */
import { describe, expect, test } from "vitest";
import { drawBlows, drawKind, faultText, parseFaults, type FaultKind } from "../../src/cli/chaos-plan.ts";
import { UsageError } from "../../src/types/errors.ts";

/** A ring whose order is not that of the numbers; node 7 is a spare. */
const TARGETS = { nodes: [3, 0, 7, 2, 5], owners: [3, 0, 2, 5] };
const DRAWS = 400;

const blowsOf = (text: string, seed: number, index: number) =>
  drawBlows(parseFaults(text, 5, 2)[0]!, TARGETS, seed, index);

describe("parseFaults", () => {
  test("every kind prints as it is written", () => {
    const text = "kill,pair,double,first,last,founder,writer,leave,restart,pause:0.2,pause:20,cut:3";
    expect(parseFaults(text, 5, 2).map(faultText).join()).toBe(text);
    expect(parseFaults(" kill , pause ", 4, 1)).toEqual([{ name: "kill" }, { name: "pause", seconds: 2 }]);
    expect(parseFaults("cut", 4, 1)).toEqual([{ name: "cut", seconds: 5 }]);
  });

  test.each([
    ["", 1],
    ["kill,", 1],
    ["pause:", 1],
    ["pause:0", 1],
    ["pause:61", 1],
    ["pause:-1", 1],
    ["cut:", 1],
    ["cut:61", 1],
    ["kill", 0],
    ["pair", 1],
  ])("%j with %i replicas is refused", (text, replicas) => {
    expect(() => parseFaults(text, 5, replicas)).toThrow(UsageError);
  });

  test("two at once need a majority that lives", () => {
    expect(() => parseFaults("double", 3, 2)).toThrow(/survive one/);
    expect(parseFaults("double", 4, 2)).toHaveLength(1);
  });
});

describe("what a fault does", () => {
  test("a seed gives the same faults, another one others", () => {
    const draw = (seed: number) => Array.from({ length: 20 }, (_, index) => blowsOf("double", seed, index));
    expect(draw(7)).toEqual(draw(7));
    expect(draw(7)).not.toEqual(draw(8));
  });

  test("every kind and every node is drawn about equally often", () => {
    const kinds = parseFaults("kill,leave,pause:1", 5, 1);
    const counts = new Map<string, number>();
    const victims = new Map<number, number>();
    for (let index = 0; index < DRAWS; index += 1) {
      const kind: FaultKind = drawKind(kinds, 1, index);
      counts.set(kind.name, (counts.get(kind.name) ?? 0) + 1);
      for (const { node } of drawBlows(kind, TARGETS, 1, index)[0]!) victims.set(node, (victims.get(node) ?? 0) + 1);
    }
    // Far wider than chance: the standard deviation is below 10.
    for (const count of counts.values()) expect(Math.abs(count - DRAWS / 3)).toBeLessThan(50);
    expect([...victims.keys()].toSorted((a, b) => a - b)).toEqual([0, 2, 3, 5, 7]);
    for (const count of victims.values()) expect(Math.abs(count - DRAWS / 5)).toBeLessThan(45);
  });

  test("a pair are neighbours on the ring, not by number", () => {
    for (let index = 0; index < 50; index += 1) {
      const [[first, second] = []] = blowsOf("pair", 3, index);
      const place = TARGETS.nodes.indexOf(first!.node);
      expect(second!.node).toBe(TARGETS.nodes[(place + 1) % 5]);
      expect(second!.delayMs).toBe(0);
    }
  });

  test("a double is two nodes, the second within half a second", () => {
    const delays = Array.from({ length: 50 }, (_, index) => {
      const [[first, second] = []] = blowsOf("double", 3, index);
      expect(second!.node).not.toBe(first!.node);
      expect(first!.delayMs).toBe(0);
      return second!.delayMs;
    });
    expect(Math.min(...delays)).toBeLessThan(60);
    expect(Math.max(...delays)).toBeGreaterThan(440);
    expect(Math.max(...delays)).toBeLessThanOrEqual(500);
  });

  test.each([
    ["first", 3],
    ["last", 5],
    ["founder", 0],
    ["writer", 0],
  ])("%s is node %i", (text, node) => {
    expect(blowsOf(text, 1, 0)).toEqual([[{ node, delayMs: 0, deed: "kill" }]]);
  });

  test("the writer is the lowest number that is there", () => {
    const targets = { nodes: [3, 7, 2], owners: [3, 2] };
    expect(drawBlows({ name: "writer" }, targets, 1, 0)[0]![0]!.node).toBe(2);
  });

  test("a restart is every node, one after the other", () => {
    expect(blowsOf("restart", 1, 0).map((round) => round.map(({ node, deed }) => [node, deed]))).toEqual(
      TARGETS.nodes.map((node) => [[node, "leave"]]),
    );
  });

  test("a cut line is one between neighbours on the ring", () => {
    for (let index = 0; index < 50; index += 1) {
      const [[blow] = []] = blowsOf("cut:0.5", 3, index);
      const place = TARGETS.nodes.indexOf(blow!.node);
      expect(blow!.deed).toEqual({ cutMs: 500, other: TARGETS.nodes[(place + 1) % 5] });
    }
  });

  test("a pause is as long as it was said", () => {
    expect(blowsOf("pause:0.8", 1, 0)[0]![0]!.deed).toEqual({ pauseMs: 800 });
  });
});
