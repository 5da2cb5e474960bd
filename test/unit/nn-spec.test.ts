/** @file Model texts: what is read, and what is refused with field, value, reason and remedy. */
import { expect, test } from "vitest";
import { parseModel } from "../../src/nn/spec.ts";
import { UsageError } from "../../src/types/errors.ts";

test("layers, sizes and activations", () => {
  expect(parseModel("mlp:784-512-10,activation=gelu")).toEqual({
    text: "mlp:784-512-10,activation=gelu",
    features: 784,
    classes: 10,
    layers: [
      { inputs: 784, outputs: 512, activation: "gelu" },
      { inputs: 512, outputs: 10, activation: "none" },
    ],
    parameters: 784 * 512 + 512 + 512 * 10 + 10,
  });
  expect(parseModel("mlp:784-512-512-512-10").parameters).toBe(932_362);
  expect(parseModel("mlp:65536-1").layers).toEqual([{ inputs: 65536, outputs: 1, activation: "none" }]);
  expect(parseModel(`mlp:${Array(1001).fill(2).join("-")}`).layers.length).toBe(1000);
});

test("equal models have equal texts", () => {
  expect(parseModel("mlp:08-4,activation=relu").text).toBe("mlp:8-4");
});

test.each([
  ["", "not a model"],
  ["perceptron:3-4", "not a model"],
  ["mlp", "not a model"],
  ["mlp:3-4:5", "not a model"],
  ["mlp:", 'width ""'],
  ["mlp:784", "0 layers"],
  ["mlp:784-0-10", 'width "0"'],
  ["mlp:784--10", 'width ""'],
  ["mlp:784-65537", 'width "65537"'],
  ["mlp:1e3-10", 'width "1e3"'],
  ["mlp: 8-10", 'width " 8"'],
  ["mlp:8-4,activation=swish", 'activation "swish"'],
  ["mlp:8-4,activation", 'activation ""'],
  ["mlp:8-4,activation=relu,activation=tanh", "stands twice"],
  ["mlp:8-4,dropout=1", 'option "dropout=1"'],
  [`mlp:${Array(1002).fill(2).join("-")}`, "1001 layers"],
  ["gpt:layers=4,width=256", "not in this version"],
  ["cnn:small", "not in this version"],
  ["models/own.ts", "not in this version"],
])("%s is refused", (text, reason) => {
  const parse = () => parseModel(text);
  expect(parse).toThrow(UsageError);
  expect(parse).toThrow(reason);
  expect(parse).toThrow(expect.objectContaining({ remedy: expect.stringMatching(/mlp:|tanh/) }));
});
