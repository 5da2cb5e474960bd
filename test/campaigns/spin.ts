/** @file A process that takes all of a core that it gets, until it is killed or its parent is gone. */
process.on("disconnect", () => process.exit());
const SLICE_MS = 100;

function spin(): void {
  const endMs = performance.now() + SLICE_MS;
  while (performance.now() < endMs);
  setImmediate(spin);
}

spin();
