/**
 * @file A classification task drawn from the job's seed, of any size: a random centre per class, and around it noise
 * from sums of uniform bytes. A sample is drawn again whenever it is asked for, so that memory holds only the centres and
 * the labels. Uses + - * / and square roots alone: the same bits on every machine.
 */
import { createHash } from "node:crypto";
import { assert } from "../types/assert.ts";
import { UsageError } from "../types/errors.ts";
import { RandomPurpose, RandomStream } from "../types/random.ts";
import type { DataSet, Split } from "./dataset.ts";

export interface SyntheticShape {
  readonly classes: number;
  readonly features: number;
  /** Training and test samples. */
  readonly samples: number;
  readonly test: number;
}

const LIMITS: Readonly<Record<keyof SyntheticShape, readonly [least: number, most: number]>> = {
  classes: [2, 65_536],
  features: [1, 2 ** 20],
  samples: [1, 10_000_000],
  test: [1, 10_000_000],
};
/** Centres, `[classes, features]` float32, are held in memory: 256 MiB. */
const CENTRE_ELEMENTS_MAX = 2 ** 26;
/** Mean distance of a centre from the origin, in standard deviations of the noise along one feature. */
const CENTRE_DISTANCE = 6;
/** Of the sum of four independent bytes. */
const BYTES_MEAN = 4 * 127.5;
const BYTES_DEVIATION = Math.sqrt((4 * (256 * 256 - 1)) / 12);
/** Raise it with any change to what is drawn. */
const CONTENT_VERSION = 1;

const FORM = "synthetic:classes=C,features=F[,samples=N,test=M]";

/** Reads `classes=10,features=784[,samples=8000,test=2000]`; a UsageError names what is unknown, missing or out of range. */
export function parseSyntheticShape(text: string): SyntheticShape {
  const remedy = `write it as ${FORM}`;
  const values = new Map<string, number>([
    ["samples", 8_000],
    ["test", 2_000],
  ]);
  for (const part of text.split(",")) {
    const [, name, digits] = /^([a-z]+)=(\d{1,15})$/.exec(part.trim()) ?? [];
    const limit = Object.hasOwn(LIMITS, name ?? "") ? LIMITS[name as keyof SyntheticShape] : undefined;
    if (name === undefined || limit === undefined) throw new UsageError(`synthetic data cannot read "${part}"`, remedy);
    const value = Number(digits);
    if (value < limit[0] || value > limit[1]) {
      throw new UsageError(`synthetic ${name}=${value} is outside ${limit[0]}..${limit[1]}`, remedy);
    }
    values.set(name, value);
  }
  const get = (name: keyof SyntheticShape): number => {
    const value = values.get(name);
    if (value === undefined) throw new UsageError(`synthetic data needs ${name}=…`, remedy);
    return value;
  };
  const shape = { classes: get("classes"), features: get("features"), samples: get("samples"), test: get("test") };
  if (shape.classes * shape.features > CENTRE_ELEMENTS_MAX) {
    throw new UsageError(`synthetic classes x features is above ${CENTRE_ELEMENTS_MAX}`, "choose fewer of either");
  }
  return shape;
}

export function syntheticDataSet(shape: SyntheticShape, seed: number): DataSet {
  const { classes, features, samples, test } = shape;
  const name = `synthetic:classes=${classes},features=${features},samples=${samples},test=${test}`;
  const centres = drawCentres(classes, features, seed);
  return {
    name,
    features,
    classes,
    // The content follows from these alone.
    sha256: createHash("sha256").update(`${name};seed=${seed};version=${CONTENT_VERSION}`).digest("hex"),
    train: drawSplit(shape, seed, 0, samples, centres),
    test: drawSplit(shape, seed, 1, test, centres),
  };
}

/** `[classes, features]`, uniform in a cube whose points lie at `CENTRE_DISTANCE` in the root mean square. */
function drawCentres(classes: number, features: number, seed: number): Float32Array {
  const random = new RandomStream(seed, RandomPurpose.syntheticCentre);
  const half = CENTRE_DISTANCE * Math.sqrt(3 / features);
  return Float32Array.from({ length: classes * features }, () => (2 * random.nextFloat() - 1) * half);
}

function drawSplit(shape: SyntheticShape, seed: number, split: number, count: number, centres: Float32Array): Split {
  const { classes, features } = shape;
  const stream = (sample: number) => new RandomStream(seed, RandomPurpose.syntheticSample, sample, split);
  const labels = Int32Array.from({ length: count }, (_, sample) => stream(sample).nextBelow(classes));
  return {
    count,
    labels,
    fill(sample, into, offset) {
      assert(sample >= 0 && sample < count, `no sample ${sample} among ${count}`);
      const random = stream(sample);
      const start = random.nextBelow(classes) * features;
      for (let feature = 0; feature < features; feature++) {
        into[offset + feature] = centres[start + feature]! + drawNoise(random.nextUint32());
      }
    },
  };
}

/** Nearly normal with mean 0 and deviation 1, from the four bytes of a word (Irwin and Hall). */
function drawNoise(word: number): number {
  const sum = (word & 0xff) + ((word >>> 8) & 0xff) + ((word >>> 16) & 0xff) + (word >>> 24);
  return (sum - BYTES_MEAN) / BYTES_DEVIATION;
}
