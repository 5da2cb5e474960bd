/** @file A whole parameter server in this process, over the memory transport: manager, task scheduler, servers, workers. Every wait is bounded. */
import { joinParameterServer, manageParameterServer, type PsRole } from "../../baseline-ps/index.ts";
import { processesOf } from "../../src/cli/ps-processes.ts";
import type { Settings } from "../../src/config/settings.ts";
import type { RunFolder } from "../../src/metrics/run-folder.ts";
import { MemoryNetwork } from "../../src/net/memory.ts";
import type { Transport } from "../../src/net/transport.ts";
import { dataOf, lossesOf, type Outcome, soon } from "./memory-ring.ts";

export interface ServersOptions {
  readonly firstStep?: number;
  /** `close` ends everything that a process says and hears, as if it had died. */
  readonly onCommitted?: (step: number, stop: () => void, close: (role: PsRole) => void) => void;
}

export async function runServers(
  settings: Settings,
  folder: RunFolder,
  options: ServersOptions = {},
): Promise<Outcome> {
  const network = new MemoryNetwork();
  const byName = new Map<string, Transport>();
  const close = ({ kind, index }: PsRole): void => void byName.get(`${kind}-${index}`)?.close();
  const create = (name: string): Transport => {
    const transport = network.join(name);
    byName.set(name, transport);
    return transport;
  };
  const manager = create("manager");
  const data = dataOf(settings);
  const managing = manageParameterServer({
    ...{ job: "00c0ffee00c0ffee", settings, dataSha256: data.sha256, firstStep: options.firstStep ?? 0, folder },
    ...{ transport: manager, onPresent: () => {}, onJob: () => {} },
  });
  managing.catch(() => {});
  let stop = (): void => {};
  const joining = processesOf(settings).map((roles) => {
    const [{ kind, index }] = [roles[0]!];
    const transport = create(`${kind}-${index}`);
    return joinParameterServer({
      ...{ roles, manager: manager.addresses, transport, engine: settings.engine, folder },
      data: () => Promise.resolve(data),
      events: {
        onReady: (tasks) => (stop = () => tasks.requestStop()),
        onCommitted: (step) => options.onCommitted?.(step, stop, close),
        onNotDurable: () => {},
      },
    });
  });
  for (const each of joining) each.catch(() => {});
  try {
    const summary = await soon(managing, "the run");
    await soon(Promise.all(joining), "the end");
    return { summary, losses: lossesOf(folder) };
  } finally {
    await Promise.all([...byName.values()].map((transport) => transport.close()));
    await Promise.allSettled(joining);
  }
}
