/** @file Where the data for tests lies; tests that need it skip where it is absent. */
import { existsSync } from "node:fs";
import { join } from "node:path";

const ROOT = join(import.meta.dirname, "..", "..");

/** Folder with `mnist/`, a subset of MNIST of 8,000 and 2,000 digits in its published form. */
export const SHARED_DATA_DIR = process.env["RINGTMP_DATA"] ?? join(ROOT, "..", "shared", "data");

export const MNIST_DIR = join(SHARED_DATA_DIR, "mnist");
export const hasMnist = existsSync(MNIST_DIR);
