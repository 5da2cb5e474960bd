/** @file A whole parameter server in this process, over the memory transport: manager, task scheduler, servers, workers. Every wait is bounded. */
import { joinParameterServer, manageParameterServer, type PsRole } from "../../baseline-ps/index.ts";
import type { Settings } from "../../src/config/settings.ts";
import type { RunFolder } from "../../src/metrics/run-folder.ts";
import { MemoryNetwork } from "../../src/net/memory.ts";
import type { Transport } from "../../src/net/transport.ts";
import { dataOf, lossesOf, type Outcome, soon } from "./memory-ring.ts";

/** Servers on which several groups of workers train. */
export class SharedServers implements AsyncDisposable {
  readonly network = new MemoryNetwork();
  readonly #transports = new Map<string, Transport>();

  transport(name: string): Transport {
    const transport = this.#transports.get(name) ?? this.network.join(name);
    this.#transports.set(name, transport);
    return transport;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([...this.#transports.values()].map((transport) => transport.close()));
  }
}

export interface ServersOptions {
  readonly firstStep?: number;
  /** With the name of this group. */
  readonly shared?: { readonly servers: SharedServers; readonly group: string };
  /** `close` ends everything that a process says and hears, as if it had died. */
  readonly onCommitted?: (step: number, stop: () => void, close: (role: PsRole) => void) => void;
}

export async function runServers(
  settings: Settings,
  folder: RunFolder,
  options: ServersOptions = {},
): Promise<Outcome> {
  const { shared } = options;
  const network = shared?.servers.network ?? new MemoryNetwork();
  const byName = new Map<string, Transport>();
  const close = ({ kind, index }: PsRole): void => void byName.get(`${kind}-${index}`)?.close();
  const create = (name: string): Transport => {
    if (shared !== undefined && name.startsWith("server-")) return shared.servers.transport(name);
    const transport = network.join(shared === undefined ? name : `${shared.group}-${name}`);
    byName.set(name, transport);
    return transport;
  };
  const manager = create("manager");
  const data = dataOf(settings);
  const managing = manageParameterServer({
    ...{
      job: Buffer.from(shared?.group ?? "only")
        .toString("hex")
        .padStart(16, "0"),
      settings,
      dataSha256: data.sha256,
      firstStep: options.firstStep ?? 0,
      folder,
    },
    ...{ transport: manager, onPresent: () => {}, onJob: () => {} },
  });
  managing.catch(() => {});
  const roles = (kind: PsRole["kind"], count: number): PsRole[] =>
    Array.from({ length: count }, (_, index) => ({ kind, index }));
  const all = [...roles("scheduler", 1), ...roles("server", settings.servers), ...roles("worker", settings.nodes)];
  let stop = (): void => {};
  const joining = all.map((role) => {
    const transport = create(`${role.kind}-${role.index}`);
    return joinParameterServer({
      ...{ role, manager: manager.addresses, transport, engine: settings.engine, folder },
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
