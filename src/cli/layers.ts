/** @file The segment of a node in a view. */
import { cutLayers, type View } from "../../ring/index.ts";
import { defined } from "../types/assert.ts";

export function layersOf(view: View, node: number): readonly [number, number] {
  return defined(cutLayers(view.layerCosts, view.members.length)[node], "a segment for each node");
}
