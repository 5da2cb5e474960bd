/**
 * @file The command line. Each command's code is loaded when it runs, so that `status` does not wait for a network stack.
 */
import { Command, CommanderError } from "commander";
import { ExitCode, UsageError } from "../types/errors.ts";
import { BUILD } from "../config/fingerprint.ts";
import { RING_SETTING_NAMES, type SettingName } from "../config/settings.ts";
import { printError, tellError, tellMisuse, ToldFailure } from "./failure.ts";
import { addTrainingFlags, refuseLaterFlags } from "./training-flags.ts";

const LATER_COMMANDS = ["doctor", "experiment", "report", "generate"];

/** Commander has printed the help or the version, asked for or where the command was left out. */
const HELP_CODES = ["commander.help", "commander.helpDisplayed", "commander.version"];

type Options = Readonly<Record<string, unknown>>;

function build(): Command {
  const program = new Command("ringtmp")
    .description(
      "Train one neural network over a ring of computers: each holds a segment and talks to its neighbours only.",
    )
    .version(BUILD)
    .option("--debug", "print the stack of an error")
    .exitOverride()
    // Told by `main`, in the form of every other error.
    .configureOutput({ outputError: () => {} });
  program.addHelpText("after", "\nExample:\n  ringtmp up -n 4 --steps 300 --out results/runs/first");
  addRunCommands(program);
  addPlanCommand(program);
  addSimulateCommand(program);
  addJobCommands(program);
  addFaultCommands(program);
  addLinkCommands(program);
  addChaosCommand(program);
  addFolderCommands(program);
  program
    .command("node", { hidden: true })
    .description("a node's process, started by up")
    .action(async () => (await import("./node.ts")).runNodeCommand());
  return program;
}

function addPlanCommand(program: Command): void {
  const plan = program
    .command("plan")
    .description("predict step time, bytes and memory of the ring and of the systems it is compared with");
  // Speed and memory have flags of their own here: nothing is emulated.
  const names = RING_SETTING_NAMES.filter((name) => !["pace", "memoryLimit"].includes(name));
  addTrainingFlags(plan, [...names, "servers"])
    .option("--speed <speed>", "of every node's arithmetic (default: 20GFLOP/s)")
    .option("--memory <size>", "what a node may take: 512MiB (default: no limit)")
    .option("--config <file>", "settings as JSON, such as a run's config.json; flags win")
    .option("--json", "every number as JSON")
    .addHelpText(
      "after",
      "\nWithout --link: 1gbit,0.2ms. The ring's bytes, memory and time include\nthose of its copies (--replicas).\n\nExample:\n  ringtmp plan -n 8 --link 100mbit,5ms --speed 20GFLOP/s --memory 512MiB",
    )
    .action(async (options: Options) => run((await import("./plan.ts")).plan(options)));
}

function addRunCommands(program: Command): void {
  const up = program.command("up").description("found a ring of local node processes and train, with a live view");
  addRunFlags(addTrainingFlags(up, RING_SETTING_NAMES))
    .option("--local <count>", "start only so many of the nodes here; the others join from elsewhere")
    .option("--listen <multiaddr>", "where nodes listen (default: 127.0.0.1, or every interface with --local)")
    .option("--invite <token>", "who joins must know this token")
    .addHelpText(
      "after",
      "\nExamples:\n  ringtmp up\n  ringtmp up -n 4 --model mlp:784-512-512-10 --out results/runs/first\n  ringtmp up -n 4 --local 2    (two more join with the command that it prints)",
    )
    .action(async (options: Options) => run((await import("./train.ts")).train({ ...options, system: "ring" })));
  const train = program.command("train").description("train on any system; without a live view");
  addRunFlags(addTrainingFlags(train))
    .option("--servers-of <run>", "no servers of its own: those of a run that is under way, by its folder, name or job")
    .addHelpText(
      "after",
      "\nExamples:\n  ringtmp train --system serial --steps 100 --out results/runs/serial --json\n  ringtmp train --system ps -n 4 --servers 2 --consistency bounded --tau 2\n  ringtmp train --system ps -n 2 --model mlp:784-64-10 --servers-of first",
    )
    .action(async (options: Options) => run((await import("./train.ts")).train(options)));
  const join = program
    .command("join")
    .argument("<multiaddr>", "address that the founder, or any member, printed; with --as: a run on this machine");
  addTrainingFlags(
    join.description("add a node from this or another machine to a ring that forms or trains"),
    EXPECTABLE,
  )
    .option("--as <kind>", "server or worker of a parameter server that trains with --server-replicas")
    .option("--invite <token>", "the token that the founder asked for")
    .option("--listen <multiaddr>", "where this node listens (default: every interface, any port)")
    .option("--out <folder>", "where this machine's results go")
    .option(
      "--state <folder>",
      "who this node is and what it voted; a node that comes back needs it (default: <out>/state/joined)",
    )
    .option("--force", "replace the run in --out")
    .option("--json", "print the summary as JSON, alone, on standard output")
    .option("--quiet", "no progress")
    .addHelpText(
      "after",
      "\nTraining flags given here must be the job's, or the ring refuses this node.\n\nExamples:\n  ringtmp join /ip4/192.168.1.5/tcp/40123/p2p/12D3KooW…\n  ringtmp join results/runs/server --as worker",
    )
    .action(async (address: string, options: Options) => {
      const { as, quiet } = options;
      if (typeof as !== "string") return run((await import("./join.ts")).join(address, options));
      return run((await import("./ps-join.ts")).joinServers(address, as, quiet === true));
    });
}

/** Settings that a joiner may insist on. */
const EXPECTABLE: readonly SettingName[] = [
  "model",
  "data",
  "seed",
  "batch",
  "microBatches",
  "optimizer",
  "lr",
  "steps",
  "schedule",
];

function addRunFlags(command: Command): Command {
  return command
    .option("--out <folder>", "where the results go (default: a new folder in results/runs)")
    .option("--force", "replace the run in --out")
    .option("--resume <folder>", "go on from a run's newest checkpoint, in its folder")
    .option("--fork", "with --resume: a new run in --out from that checkpoint; seed, batch, lr, data may differ")
    .option("--config <file>", "settings as JSON, such as a run's config.json; flags win")
    .option("--json", "print the summary as JSON, alone, on standard output")
    .option("--quiet", "no progress");
}

function addSimulateCommand(program: Command): void {
  const command = program.command("simulate").description("the ring in virtual time: idle time of any number of nodes");
  addTrainingFlags(
    command,
    RING_SETTING_NAMES.filter((name) => !SIMULATED_OTHERWISE.includes(name)),
  )
    .option("-n, --nodes <count>", "nodes of the ring, up to 4096 (default: 4)")
    .option("--model <spec>", "times in milliseconds, from its work at --pace; without it units (one F takes 1)")
    .option("--steps <count>", "optimizer updates (default: 4)")
    .option("--timeline <what>", "all, none or last:N steps (default: last:20, where that is at most 200000 entries)")
    .option("--costs <F,B,W>", "times of a micro-batch's passes, in units (default: 1,1,1)")
    .option("--hop-latency <units>", "one way between neighbours, in units (default: 0)")
    .option("--jitter <variation>", "of every operation's time: standard deviation over mean, lognormal (default: 0)")
    .option("--speeds <factors>", "of each node: 2,1,1,0.5; its times are divided by them (default: 1)")
    .option(
      "--tasks <file>",
      "a schedule of your own, a line of 0F0 0B0 0W0 … a node; B and W are one operation where --schedule has them so",
    )
    .option(
      "--from <runs...>",
      "folders of runs whose measured costs are used; their settings hold, but for flags and --steps",
    )
    .option("--print", "print each node's tasks of one step instead of the summary")
    .option("--out <folder>", "where the results go (default: they are not kept)")
    .option("--force", "replace the run in --out")
    .option("--config <file>", "settings as JSON, such as a run's config.json; flags win")
    .option("--json", "print the summary as JSON, alone, on standard output")
    .option("--quiet", "no progress")
    .addHelpText(
      "after",
      "\nExamples:\n  ringtmp simulate -n 1024 --schedule 1f1b --micro-batches 2048\n  ringtmp simulate -n 8 --micro-batches 64 --hop-latency 0.5 --out far\n  ringtmp simulate -n 4 --model mlp:64-64-64-64-64 --pace 2GFLOP/s --link 5ms\n  ringtmp simulate -n 4 --schedule zb-h1 --print > tasks.txt\n  ringtmp simulate --tasks tasks.txt",
    )
    .action(async (options: Options) => run((await import("./simulate.ts")).simulateCommand(options)));
}

/** Settings that `simulate` has with other defaults. */
const SIMULATED_OTHERWISE: readonly SettingName[] = ["nodes", "model", "steps", "timeline"];

function addJobCommands(program: Command): void {
  program
    .command("status")
    .description("nodes, segments, step, loss and idle time of a running job")
    .option("--job <job>", "the job's folder, name or id; not needed where one runs")
    .option("--json", "as JSON")
    .addHelpText("after", "\nExample:\n  ringtmp status --job results/runs/first")
    .action(async (options: Options) => run((await import("./jobs.ts")).status(options)));
  program
    .command("why")
    .description("who waits for what, from whom, since when; a stuck ring names the edge or the node")
    .option("--job <job>", "the job's folder, name or id; not needed where one runs")
    .option("--json", "as JSON")
    .addHelpText("after", "\nExample:\n  ringtmp why --job results/runs/first")
    .action(async (options: Options) => run((await import("./jobs.ts")).why(options)));
  program
    .command("jobs")
    .description("running jobs of this user on this machine")
    .option("--json", "as JSON")
    .addHelpText("after", "\nExample:\n  ringtmp jobs")
    .action(async (options: Options) => run((await import("./jobs.ts")).jobs(options)));
  program
    .command("stop")
    .argument("<job>", "the job's folder, name or id")
    .description("end a running job in order: it finishes its step and writes its results")
    .addHelpText("after", "\nExample:\n  ringtmp stop results/runs/first")
    .action(async (job: string) => run((await import("./jobs.ts")).stop(job)));
}

const JOB_FLAG = ["--job <job>", "the job's folder, name or id; not needed where one runs"] as const;

function addFaultCommands(program: Command): void {
  const signals = [
    ["kill", "kill a node's process on this machine at once (SIGKILL)"],
    ["pause", "freeze a node's process on this machine (SIGSTOP)"],
    ["resume", "let a frozen node's process go on (SIGCONT)"],
  ] as const;
  for (const [word, description] of signals) {
    program
      .command(word)
      .argument("<node>", "its number, as status lists it")
      .description(description)
      .option(...JOB_FLAG)
      .addHelpText("after", `\nExample:\n  ringtmp ${word} 2`)
      .action(async (node: string, options: Options) => run((await import("./faults.ts")).signal(word, node, options)));
  }
  program
    .command("leave")
    .argument("<node>", "its number, as status lists it")
    .description("let a node on this machine leave in order: the others take its layers over")
    .option(...JOB_FLAG)
    .addHelpText("after", "\nExample:\n  ringtmp leave 2 --job results/runs/first")
    .action(async (node: string, options: Options) => run((await import("./faults.ts")).leave(node, options)));
}

function addLinkCommands(program: Command): void {
  const links = [
    ["cut", "cut the link between two nodes like a cable: nothing passes, nobody is told"],
    ["mend", "mend a link that was cut: what was held passes"],
  ] as const;
  for (const [word, description] of links) {
    program
      .command(word)
      .argument("<a>", "a node's number")
      .argument("<b>", "another one's")
      .description(description)
      .option(...JOB_FLAG)
      .addHelpText("after", `\nEach end on this machine is asked.\n\nExample:\n  ringtmp ${word} 1 2`)
      .action(async (a: string, b: string, options: Options) =>
        run((await import("./faults.ts")).link(word, [a, b], options)),
      );
  }
}

/** What `chaos` sets itself. */
const CHAOS_OWN: readonly SettingName[] = ["system", "respawn", "orphans"];

function addChaosCommand(program: Command): void {
  const chaos = program.command("chaos").description("a run under random faults, checked against the undisturbed run");
  addTrainingFlags(
    chaos,
    RING_SETTING_NAMES.filter((name) => !CHAOS_OWN.includes(name) && name !== "steps"),
  )
    .option("--steps <count>", "optimizer updates at least (default: until all faults are delivered)")
    .option("--kills <count>", "faults (default: 5)")
    .option("--every <seconds>", "from a whole ring to the next fault (default: 3)")
    .option("--faults <kinds>", `drawn from with --seed: ${FAULT_KINDS} (default: kill)`)
    .option("--out <folder>", "where the results go (default: a new folder in results/runs)")
    .option("--force", "replace the run in --out")
    .option("--config <file>", "settings as JSON, such as a run's config.json; flags win")
    .option("--json", "print chaos.json alone on standard output")
    .option("--quiet", "no progress")
    .addHelpText(
      "after",
      "\nKilled nodes are started again. Exit code 1 where the runs differ.\n\nExamples:\n  ringtmp chaos -n 5 --replicas 2 --kills 20 --every 3 --seed 7\n  ringtmp chaos --faults kill,pause:2,leave --kills 10 --out results/runs/chaos",
    )
    .action(async (options: Options) => run((await import("./chaos.ts")).chaos(options)));
}

const FAULT_KINDS = "kill, pair, double, pause:SECONDS, cut:SECONDS, first, last, founder, writer, leave, restart";

function addFolderCommands(program: Command): void {
  program
    .command("evaluate")
    .argument("<run>", "a run's folder")
    .description("accuracy and loss of a run's newest checkpoint on the test set")
    .option("--json", "as JSON")
    .option("--data-dir <folder>", "where the data is, if not where the run found it")
    .addHelpText("after", "\nExample:\n  ringtmp evaluate results/runs/first")
    .action(async (folder: string, options: Options) =>
      run((await import("./artifacts.ts")).evaluate(folder, options)),
    );
  program
    .command("export")
    .argument("<run>", "a run's folder")
    .description("write a run's weights as one safetensors file")
    .option("--step <step>", "0 for the initial weights, or a step that has a checkpoint (default: the newest)")
    .option("--out <file>", "the file (default: <run>/model-<step>.safetensors)")
    .addHelpText("after", "\nExample:\n  ringtmp export results/runs/first --out model.safetensors")
    .action(async (folder: string, options: Options) =>
      run((await import("./artifacts.ts")).exportModel(folder, options)),
    );
  program
    .command("plot")
    .argument("<run...>", "runs' folders; several are compared in one figure of idle time")
    .description("figures of runs: who computed what when in one step, and how idle each node was")
    .option("--format <formats>", "svg, png, terminal (default: svg,png, and terminal where this is one)")
    .option("--out <folder>", "where the figures go (default: <run>/figures)")
    .addHelpText(
      "after",
      "\nExamples:\n  ringtmp plot results/runs/first\n  ringtmp plot results/runs/first --format terminal\n  ringtmp plot results/runs/gpipe results/runs/1f1b --out figures",
    )
    .action(async (folders: readonly string[], options: Options) =>
      run((await import("./plot.ts")).plot(folders, options)),
    );
  const data = program
    .command("data")
    .description("data sets: what there is, download, order of the samples")
    .addHelpText("after", "\nExample:\n  ringtmp data list");
  data
    .command("list")
    .description("data sets and how to name them")
    .addHelpText("after", "\nExample:\n  ringtmp data list")
    .action(async () => run((await import("./data.ts")).list()));
  data
    .command("get")
    .argument("<name>", "mnist or fashion-mnist")
    .description("download a data set and check it")
    .option("--data-dir <folder>", "where to put it")
    .addHelpText("after", "\nExample:\n  ringtmp data get mnist")
    .action(async (name: string, options: Options) => run((await import("./data.ts")).get(name, options)));
  addTrainingFlags(data.command("batches"), ["data", "dataDir", "seed", "batch", "microBatches", "steps"])
    .description("the sample indices of each step's micro-batches, as JSON lines")
    .option("--dump <file>", "write them there instead of to standard output")
    .addHelpText("after", "\nExample:\n  ringtmp data batches --data digits --steps 3 --dump batches.jsonl")
    .action(async (options: Options) => run((await import("./data.ts")).batches(options)));
}

/** A command gives its exit code; errors are printed in one place. */
async function run(command: Promise<number>): Promise<void> {
  process.exitCode = await command;
}

function refuseLaterCommands(argv: readonly string[]): void {
  const command = argv.find((argument) => !argument.startsWith("-"));
  if (command !== undefined && LATER_COMMANDS.includes(command)) {
    throw new UsageError(`ringtmp ${command}: not in this version`, "ringtmp --help lists what there is");
  }
}

async function main(): Promise<void> {
  // Whoever reads the output may have seen enough (`| head`).
  process.stdout.on("error", (error: NodeJS.ErrnoException) =>
    process.exit(error.code === "EPIPE" ? ExitCode.done : ExitCode.unexpected),
  );
  const argv = process.argv.slice(2);
  const debug = argv.includes("--debug");
  const arguments_ = argv.filter((argument) => argument !== "--debug");
  try {
    refuseLaterCommands(arguments_);
    // A plan speaks of systems that later versions run.
    if (arguments_[0] !== "plan") refuseLaterFlags(arguments_);
    await build().parseAsync(arguments_, { from: "user" });
  } catch (error) {
    process.exitCode = endWith(error, arguments_, debug);
  }
}

function endWith(error: unknown, argv: readonly string[], debug: boolean): number {
  if (error instanceof CommanderError && HELP_CODES.includes(error.code)) {
    return error.exitCode === 0 ? ExitCode.done : ExitCode.usage;
  }
  if (error instanceof CommanderError) return printError(tellMisuse(error, argv), debug);
  return printError(error instanceof ToldFailure ? error.told : tellError(error, undefined), debug);
}

await main();
