/**
 * @file Whole parameter servers in this process, over the memory transport: manager, task scheduler, servers, workers. Several groups of workers may
 * share the servers of the first. Every wait is bounded.
 */
import { joinParameterServer, manageParameterServer, type PsRole, ServedJobs } from "../../baseline-ps/index.ts";
import { processesOf } from "../../src/cli/ps-processes.ts";
import type { Settings } from "../../src/config/settings.ts";
import type { RunFolder } from "../../src/metrics/run-folder.ts";
import { MemoryNetwork } from "../../src/net/memory.ts";
import type { Transport } from "../../src/net/transport.ts";
import { dataOf, lossesOf, type Outcome, soon } from "./memory-ring.ts";

/** `close`, of `onCommitted`, ends everything that a process says and hears, as if it had died. */
export interface Changes {
  /** Another process comes. */
  readonly join: (kind: "server" | "worker") => void;
  /** A process wants to go, in order. */
  readonly leave: (role: PsRole) => void;
  /** As `close`, of the manager. */
  readonly closeManager: () => void;
}

export interface ServersOptions {
  readonly firstStep?: number;
  /** A process loads the data set. */
  readonly onLoaded?: (role: PsRole) => void;
  readonly onCommitted?: (step: number, stop: () => void, close: (role: PsRole) => void, changes: Changes) => void;
}

export interface GroupInit extends ServersOptions {
  readonly settings: Settings;
  readonly folder: RunFolder;
}

export const jobOfGroup = (group: number): string => `00c0ffee00c0ff0${group}`;

export async function runServers(
  settings: Settings,
  folder: RunFolder,
  options: ServersOptions = {},
): Promise<Outcome> {
  const [ended] = await runGroups([{ settings, folder, ...options }]);
  if (ended!.status === "rejected") throw ended!.reason;
  return ended!.value;
}

/** Groups with as many servers each: the same ones, with the keys of each. */
export async function runGroups(groups: readonly GroupInit[]): Promise<readonly PromiseSettledResult<Outcome>[]> {
  const network = new MemoryNetwork();
  const servers = Array.from({ length: groups[0]!.settings.servers }, (_, index) => {
    return { transport: network.join(`server-${index}`), served: new ServedJobs() };
  });
  try {
    return await Promise.allSettled(groups.map((init, group) => new Group(network, servers, group, init).run()));
  } finally {
    await Promise.all(servers.map(({ transport }) => transport.close()));
  }
}

interface Server {
  readonly transport: Transport;
  readonly served: ServedJobs;
}

class Group {
  readonly #network: MemoryNetwork;
  readonly #servers: readonly Server[];
  readonly #group: number;
  readonly #init: GroupInit;
  /** Its own, not the servers'. */
  readonly #transports = new Map<string, Transport>();
  readonly #members = new Map<string, { leave(): void }>();
  readonly #joiners: Promise<void>[] = [];
  readonly #succeeded = Promise.withResolvers<Record<string, unknown>>();
  #isManagerGone = false;
  #manager: readonly string[] = [];
  #stop = (): void => {};

  constructor(network: MemoryNetwork, servers: readonly Server[], group: number, init: GroupInit) {
    this.#network = network;
    this.#servers = servers;
    this.#group = group;
    this.#init = init;
  }

  async run(): Promise<Outcome> {
    const { settings, folder, firstStep = 0 } = this.#init;
    const manager = this.#create("manager");
    const managing = manageParameterServer({
      ...{ job: jobOfGroup(this.#group), settings, dataSha256: dataOf(settings).sha256, firstStep, folder },
      ...{ transport: manager, onPresent: () => {}, onJob: () => {}, onLost: () => {}, onChanged: () => {} },
    });
    // One that is closed says nothing; the standby does.
    managing.catch((error: unknown) => this.#isManagerGone || this.#succeeded.reject(error));
    this.#manager = manager.addresses;
    const all = processesOf(settings).map((roles) => ({ roles, joined: this.#join(roles, manager.addresses) }));
    for (const { joined } of all) joined.catch(() => {});
    // One that is closed looks for a manager until it gives up; a process that died does not.
    const joining = (): readonly Promise<void>[] =>
      all.flatMap(({ roles, joined }) => (this.#closed.has(`${roles[0]!.kind}-${roles[0]!.index}`) ? [] : [joined]));
    try {
      const summary = await soon(
        Promise.race([managing.catch(() => new Promise<never>(() => {})), this.#succeeded.promise]),
        "the run",
      );
      const ended = settings.serverReplicas === 0 ? Promise.all(joining()) : Promise.allSettled(joining());
      await soon<unknown>(ended, "the end");
      await soon(Promise.all(this.#joiners), "the end of those that came");
      return { summary, losses: lossesOf(folder) };
    } finally {
      await Promise.all([...this.#transports.values()].map((transport) => transport.close()));
      await Promise.allSettled(joining());
    }
  }

  #create(name: string): Transport {
    const transport = this.#network.join(`group-${this.#group}-${name}`);
    this.#transports.set(name, transport);
    return transport;
  }

  #join(roles: readonly PsRole[], manager: readonly string[]): Promise<void> {
    const { settings, folder, onCommitted, onLoaded } = this.#init;
    const role = roles[0]!;
    const name = `${role.kind}-${role.index}`;
    const server = role.kind === "server" ? this.#servers[role.index]! : undefined;
    return joinParameterServer({
      onJob: (_, __, member) => this.#members.set(name, member),
      onSummary: this.#succeeded.resolve,
      ...{ roles, manager, transport: server?.transport ?? this.#create(name), engine: settings.engine, folder },
      ...(server !== undefined && { served: server.served }),
      data: () => {
        onLoaded?.(role);
        return Promise.resolve(dataOf(settings));
      },
      events: {
        onReady: (tasks) => (this.#stop = () => tasks.requestStop()),
        onCommitted: (step) => onCommitted?.(step, this.#stop, (gone) => this.#close(gone), this.#changes),
        onNotDurable: () => {},
      },
    });
  }

  readonly #changes: Changes = {
    join: (kind) => {
      const transport = this.#create(`joiner-${this.#joiners.length}`);
      const { settings, folder } = this.#init;
      const joined = joinParameterServer({
        ...{
          roles: [{ kind, index: 0 }],
          manager: this.#manager,
          transport,
          engine: settings.engine,
          folder,
          joins: true,
        },
        data: () => Promise.resolve(dataOf(settings)),
        events: { onReady: () => {}, onCommitted: () => {}, onNotDurable: () => {} },
      });
      joined.catch(() => {});
      this.#joiners.push(joined);
    },
    closeManager: () => {
      this.#isManagerGone = true;
      void this.#transports.get("manager")!.close();
    },
    leave: ({ kind, index }) => this.#members.get(`${kind}-${index}`)!.leave(),
  };

  readonly #closed = new Set<string>();

  #close({ kind, index }: PsRole): void {
    this.#closed.add(`${kind}-${index}`);
    const own = this.#transports.get(`${kind}-${index}`);
    void (own ?? this.#servers[index]!.transport).close();
  }
}
