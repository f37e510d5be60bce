"""`dreamzero`: the one command line of the stack.

With --json a subcommand prints one JSON object on standard output and everything else on standard error.
"""

import json as json_module
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from dreamzero_policy.data.bags import BagReading
    from dreamzero_policy.data.lerobot.reader import Matching

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="The ROS 2 runtime for world-action models.",
    pretty_exceptions_enable=False,
)

IMAGE_WIDTHS = (320, 640)
TRANSPORTS = ("compressed", "raw")
CHECKPOINT_LAYOUTS = ("release", "diffusers", "dreamzero")
DATA_FORMS = ("lerobot", "views")
SUITES = ("seen", "unseen", "both")
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on standard output, all else on standard error.")
]


bench = typer.Typer(no_args_is_help=True, help="Measure.")
app.add_typer(bench, name="bench")
convert = typer.Typer(no_args_is_help=True, help="Write files in another form.")
app.add_typer(convert, name="convert")
data = typer.Typer(no_args_is_help=True, help="Demonstrations: LeRobot data sets, bags, views.")
app.add_typer(data, name="data")


@app.command()
def collect(
    out: Annotated[Path, typer.Option(help="Folder of the data set; what is there already is not made again.")],
    episodes: Annotated[int, typer.Option(min=1, help="Number of seeds to try.")] = 400,
    first_seed: Annotated[int, typer.Option(min=0, help="Seed of the first episode.")] = 0,
    form: Annotated[str, typer.Option(help="lerobot (raw images) or views (compact, for one contract).")] = "lerobot",
    processes: Annotated[int, typer.Option(min=1, help="Episodes made at a time.")] = 2,
    contract: Annotated[Path | None, typer.Option(help="Another contract than the shipped one.")] = None,
    robot: Annotated[str, typer.Option(help="Whose expert demonstrates.")] = "agibot_twin",
    json: Json = False,
) -> None:
    """Demonstrations of a simulated robot's scripted expert, as a data set to train on."""
    from dreamzero_policy.cli import collect as room
    from dreamzero_policy.cli.console import console_for
    from dreamzero_policy.cli.share import shipped_contract_path
    from dreamzero_policy.data.sinks import FORMS

    if form not in FORMS:
        raise typer.BadParameter(f"--form is {form}; expected {' or '.join(FORMS)}")
    console = console_for(json)
    seeds = range(first_seed, first_seed + episodes)
    try:
        with _one_line(console):
            document = room.run(robot, contract or shipped_contract_path(), out, form, seeds, processes, console)
    except room.CollectError as error:
        console.print(str(error), style="red", markup=False)
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        console.print(f"stopped; {out} holds whole episodes, the same command goes on")
        raise typer.Exit(130) from None
    if json:
        typer.echo(json_module.dumps(document))
    else:
        room.report(document, out, console)


@app.command()
def demo(
    seconds: Annotated[float, typer.Option(min=3.0, max=3600.0, help="Length of the run [s].")] = 60.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the scene.")] = 0,
    prompt: Annotated[
        str | None, typer.Option(help="One instruction for the whole run instead of each scene's own task.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for bag, film and summary; out/demo/<time> by default.")
    ] = None,
    viewer: Annotated[bool, typer.Option(help="Open MuJoCo's viewer, where a display exists.")] = False,
    steps: Annotated[int, typer.Option(min=1, max=64, help="Denoising steps per chunk.")] = 4,
    image_width: Annotated[int, typer.Option(help="Camera width in pixels, 320 or 640.")] = 320,
    transport: Annotated[str, typer.Option(help="compressed or raw images.")] = "compressed",
    checkpoint: Annotated[Path | None, typer.Option(help="Another checkpoint folder than the shipped one.")] = None,
    json: Json = False,
) -> None:
    """A simulated AgiBot G1 moves by a world-action model over real ROS 2; bag, film and numbers are kept."""
    try:
        from dreamzero_policy.cli import demo as room
        from dreamzero_policy.cli.console import console_for
        from dreamzero_policy.cli.processes import ProcessDied
    except KeyboardInterrupt:
        raise typer.Exit(130) from None

    if image_width not in IMAGE_WIDTHS:
        raise typer.BadParameter(f"{image_width}; the twin has {' and '.join(map(str, IMAGE_WIDTHS))} pixels")
    if transport not in TRANSPORTS:
        raise typer.BadParameter(f"{transport}; expected {' or '.join(TRANSPORTS)}")
    console = console_for(json)
    if viewer and not room.has_display():
        console.print("no display here: running without the viewer", style="yellow")
        viewer = False
    options = room.DemoOptions(
        seconds=seconds,
        seed=seed,
        prompt=prompt,
        folder=out or room.default_folder(),
        viewer=viewer,
        steps=steps,
        image_width=image_width,
        transport=transport,
        checkpoint=checkpoint,
    )
    try:
        summary = room.run_demo(options, console)
    except (room.DemoFailed, ProcessDied) as error:
        console.print(f"demo failed: {error}", style="red", markup=False)
        raise typer.Exit(1) from error
    except room.Interrupted:
        console.print("stopped; nothing is left running")
        raise typer.Exit(130) from None
    room.report(summary, options.folder, console)
    if json:
        typer.echo(json_module.dumps(summary))


@app.command("eval")
def evaluate(
    suite: Annotated[str, typer.Option(help="seen, unseen or both.")] = "both",
    episodes: Annotated[int, typer.Option(min=1, help="Episodes of each suite.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first episode; the others follow it.")] = 0,
    checkpoint: Annotated[Path | None, typer.Option(help="Checkpoint folder; the shipped one by default.")] = None,
    methods: Annotated[
        list[str] | None, typer.Option("--method", help="wam-N, flash-N, … with N steps; repeat for several.")
    ] = None,
    table: Annotated[bool, typer.Option("--table", help="All methods that have what they need.")] = False,
    steps: Annotated[
        int | None, typer.Option(min=1, max=64, help="Denoising steps per chunk, short for --method wam-N; 4.")
    ] = None,
    flash_checkpoint: Annotated[Path | None, typer.Option(help="Flash version of the checkpoint.")] = None,
    vla_checkpoint: Annotated[Path | None, typer.Option(help="The twin trained without the video loss.")] = None,
    demonstrations: Annotated[Path | None, typer.Option(help="Data set whose mean is replayed.")] = None,
    recorded: Annotated[Path | None, typer.Option(help="Data set for open-loop errors, video PSNR.")] = None,
    processes: Annotated[int | None, typer.Option(min=1, help="Processes; as many as there are cores.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for results, report and films; goes on where it was interrupted.")
    ] = None,
    latency: Annotated[float, typer.Option(min=0.0, max=10.0, help="Simulated time to an answer [s].")] = 0.15,
    films: Annotated[int, typer.Option(min=0, help="Episodes shown in the report.")] = 6,
    world: Annotated[
        str, typer.Option(help="Installed suite, or its place: module:Class, file.py:Class.")
    ] = "agibot_twin",
    contract: Annotated[Path | None, typer.Option(help="Contract file; the shipped one by default.")] = None,
    parameters: Annotated[Path | None, typer.Option(help="Parameter file of the node; the shipped one.")] = None,
    device: Annotated[str, typer.Option(help="Torch device of the model.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16, or auto: the faster one on this machine.")] = "float32",
    json: Json = False,
) -> None:
    """Success and progress of a policy over many episodes, by the node's own loop on simulated time. No ROS."""
    from dreamzero_policy.cli.console import console_for

    try:
        from dreamzero_policy.cli import evaluate as room
    except KeyboardInterrupt:
        raise typer.Exit(130) from None

    if suite not in SUITES:
        raise typer.BadParameter(f"{suite}; expected {', '.join(SUITES)}")
    if steps is not None and (methods or table):
        raise typer.BadParameter("--steps is short for --method wam-N; give one of the two")
    names = methods or ([] if table else [f"wam-{steps or 4}"])
    console = console_for(json)
    options = room.Options(
        suite=suite,
        episodes=episodes,
        seed=seed,
        names=tuple(names),
        table=table,
        checkpoint=checkpoint,
        flash=flash_checkpoint,
        vla=vla_checkpoint,
        demonstrations=demonstrations,
        recorded=recorded,
        contract=contract,
        parameters=parameters,
        world=world,
        latency_s=latency,
        device=device,
        dtype=dtype,
        processes=processes or room.cores(),
        films=films,
        folder=out or room.default_folder(),
    )
    try:
        with _one_line(console):
            document = room.run(options, console)
    except room.MethodError as error:
        raise typer.BadParameter(str(error)) from error
    except room.EvaluationFailed as error:
        console.print(f"evaluation failed: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        console.print(f"stopped; go on with --out {options.folder}", soft_wrap=True)
        raise typer.Exit(130) from None
    room.report(document, options.folder, console)
    if json:
        typer.echo(json_module.dumps(document))


@app.command()
def train(
    config: Annotated[Path, typer.Option(help="Training recipe, a file of config/training.")],
    out: Annotated[Path, typer.Option(help="Folder of the checkpoint; a flash stage goes to <out>_flash.")],
    data: Annotated[
        Path | None, typer.Option(help="Demonstrations: views, LeRobot data set or bags. Needed until prepared.")
    ] = None,
    run: Annotated[Path | None, typer.Option(help="Folder of the run: states, curves, dreams; <out>.run.")] = None,
    stage: Annotated[str, typer.Option(help="all, prepare, joint or flash.")] = "all",
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of each process; the cores shared by the processes.")
    ] = None,
    processes: Annotated[
        int, typer.Option(min=1, help="Processes that train together; on a CPU one per core is fastest.")
    ] = 1,
) -> None:
    """Train a policy from demonstrations. An interrupted run is continued by the same command."""
    import os

    from dreamzero_policy.cli.console import console_for

    try:
        from dreamzero_policy.cli import train as room
        from dreamzero_policy.training.errors import TRAINING_ERRORS
        from dreamzero_policy.training.settings import Recipe
    except KeyboardInterrupt:
        raise typer.Exit(130) from None

    if stage not in ("all", *room.STAGES):
        raise typer.BadParameter(f"--stage is {stage}; expected all, {', '.join(room.STAGES)}")
    if data is None and stage in ("all", "prepare"):
        raise typer.BadParameter("--data is missing; the stage prepare needs it")
    console = console_for(False)
    try:
        with _one_line(console):
            options = room.TrainOptions(
                recipe=config,
                data=data,
                out=out,
                run=run or room.default_run(out),
                stages=room.stages_of(Recipe.load(config), stage),
                threads=threads or max(1, len(os.sched_getaffinity(0)) // processes),
                processes=processes,
            )
            for written in room.run_training(options, console):
                console.print(f"wrote {written}", markup=False, highlight=False, soft_wrap=True)
    except (*TRAINING_ERRORS, room.TrainingFailed) as error:
        console.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        console.print("stopped; the same command goes on where this one was", soft_wrap=True)
        raise typer.Exit(130) from None


@bench.command("model")
def bench_model(
    checkpoint: Annotated[Path | None, typer.Option(help="Checkpoint folder; the shipped one by default.")] = None,
    steps: Annotated[list[int] | None, typer.Option(min=1, max=64, help="Denoising steps; repeat for several.")] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of the model; 1, and with --config as many as there are cores.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    blocks: Annotated[int, typer.Option(min=4, help="Blocks measured for each number of steps.")] = 16,
    config: Annotated[
        Path | None, typer.Option(help="A file of config/models: cost of each verb, with random weights.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="With --config: how often each case is timed.")] = 5,
    compiled: Annotated[bool, typer.Option("--compile", help="With --config: compiled blocks beside.")] = False,
    against: Annotated[
        str | None, typer.Option(help="With --config: file.py:name or module:name of another transformer, beside.")
    ] = None,
    json: Json = False,
) -> None:
    """Time of observe and predict: for a checkpoint in sessions, or with --config verb by verb."""
    from dreamzero_policy.cli import bench as room
    from dreamzero_policy.cli.console import console_for
    from dreamzero_policy.cli.share import shipped_checkpoint

    console = console_for(json)
    if config is None and (compiled or against is not None):
        raise typer.BadParameter("--compile and --against go with --config")
    if config is not None:
        try:
            document = room.bench_config(config, checkpoint, threads, dtype, rounds, compiled, against, console)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
    else:
        document = room.bench_model(
            checkpoint or shipped_checkpoint(), steps or [16, 4, 1], threads or 1, dtype, blocks, console
        )
    if json:
        typer.echo(json_module.dumps(document))
    elif config is not None:
        room.report_config(document, console)
    else:
        room.report(document, console)


@bench.command("load")
def bench_load(
    gigabytes: Annotated[float, typer.Option(min=0.01, max=100.0, help="Size of the generated checkpoint [GB].")] = 1.0,
    repeats: Annotated[int, typer.Option(min=1, help="Runs of each, in turn; the median counts.")] = 5,
    folder: Annotated[Path | None, typer.Option(help="Where to write it; the system's temporary folder.")] = None,
    json: Json = False,
) -> None:
    """Time and memory of loading a checkpoint, against safetensors' own reader in the same run."""
    from dreamzero_policy.cli import bench_load as room
    from dreamzero_policy.cli.console import console_for

    console = console_for(json)
    document = room.bench_load(gigabytes, repeats, folder, console)
    if json:
        typer.echo(json_module.dumps(document))
    else:
        room.report(document, console)


@app.command()
def inspect(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint folder, in any layout.")],
    base: Annotated[Path | None, typer.Option(help="The checkpoint that its adapters were trained on.")] = None,
    contract: Annotated[Path | None, typer.Option(help="A contract file to compare it with.")] = None,
    json: Json = False,
) -> None:
    """What a checkpoint is: variant, components, embodiments, statistics, chunk, contract fit. Reads no weights."""
    from dreamzero_policy.cli import inspect as room
    from dreamzero_policy.cli.console import console_for
    from dreamzero_policy.inference.inspection import describe

    console = console_for(json)
    with _one_line(console):
        document = describe(checkpoint, base=base, contract=contract)
    if json:
        typer.echo(json_module.dumps(document))
    else:
        room.report(document, console)


@convert.command("checkpoint")
def convert_checkpoint(
    paths: Annotated[list[Path], typer.Argument(metavar="[SOURCE] DESTINATION", help="Checkpoint folders.")],
    to: Annotated[str, typer.Option(help="release, diffusers or dreamzero.")] = "release",
    base: Annotated[
        Path | None, typer.Option(help="The checkpoint that the source's adapters were trained on.")
    ] = None,
    meta: Annotated[bool, typer.Option("--meta", help="No source: headers of --variant, a hole for the data.")] = False,
    variant: Annotated[str | None, typer.Option(help="With --meta: a name in config/models, or a file.")] = None,
    torch_files: Annotated[
        bool, typer.Option("--torch-files", help="Read .pt and .pth files (weights only) where no safetensors are.")
    ] = False,
    shard_mib: Annotated[int, typer.Option(min=1, help="Largest file [MiB].")] = 5120,
) -> None:
    """Write a checkpoint in another layout, one tensor in memory at a time."""
    from dreamzero_policy.cli import convert as room
    from dreamzero_policy.cli.console import console_for

    if to not in CHECKPOINT_LAYOUTS:
        raise typer.BadParameter(f"--to is {to}; expected {', '.join(CHECKPOINT_LAYOUTS)}")
    if meta != (variant is not None):
        raise typer.BadParameter("--meta and --variant go together")
    if len(paths) != (1 if meta else 2):
        raise typer.BadParameter(f"{len(paths)} paths; --meta takes a destination, else a source and a destination")
    console = console_for(False)
    with _one_line(console):
        if meta:
            room.write_blank(variant, paths[-1], to, shard_mib=shard_mib)
        else:
            room.convert_checkpoint(paths[0], paths[1], to, base=base, torch_files=torch_files, shard_mib=shard_mib)
    console.print(f"wrote {paths[-1]} in the {to} layout", markup=False)


DataContract = Annotated[Path | None, typer.Option("--contract", help="Contract file; the shipped one by default.")]
DataActions = Annotated[
    str, typer.Option("--actions", help="Of bags: commands (joint trajectories) or next_state (joint states).")
]
DataInstruction = Annotated[str, typer.Option("--instruction", help="Of bags: what was done, where they do not say.")]
DataRename = Annotated[
    list[str] | None,
    typer.Option("--rename", help="Of LeRobot: THEIRS=OURS, a joint, group or camera; repeat for several."),
]
DataUnit = Annotated[
    list[str] | None, typer.Option("--unit", help="Of LeRobot: OURS=deg, unit of a joint or group where it differs.")
]
DataAnyContract = Annotated[
    bool,
    typer.Option("--any-contract", help="Of LeRobot: take another contract's data by names of joints and cameras."),
]


@data.command("inspect")
def data_inspect(
    folder: Annotated[Path, typer.Argument(help="LeRobot data set, bag, folder of bags, or folder of views.")],
    contract: DataContract = None,
    check: Annotated[
        bool, typer.Option("--check", help="Read every number and picture, and name each problem.")
    ] = False,
    actions: DataActions = "commands",
    instruction: DataInstruction = "",
    rename: DataRename = None,
    unit: DataUnit = None,
    any_contract: DataAnyContract = False,
    json: Json = False,
) -> None:
    """What a data set is: form, size, cameras, joints, instructions, contract fit. Exit code 1 if --check finds any."""
    from dreamzero_policy.cli import data as room
    from dreamzero_policy.cli.console import console_for

    console = console_for(json)
    with _one_line(console):
        given = room.contract_of(contract)
        choices = _data_choices(actions, instruction, rename, unit, any_contract)
        document = room.inspect_data(folder, given, *choices, check, console)
    if json:
        typer.echo(json_module.dumps(document))
    else:
        room.report(document, console)
    if document["problems"]:
        raise typer.Exit(1)


@data.command("convert")
def data_convert(
    source: Annotated[Path, typer.Argument(help="LeRobot data set, bag, folder of bags, or folder of views.")],
    destination: Annotated[Path, typer.Argument(help="Folder; episodes that it holds already are left alone.")],
    to: Annotated[str, typer.Option(help="lerobot (v3.0, raw images) or views (compact, for training).")],
    contract: DataContract = None,
    actions: DataActions = "commands",
    instruction: DataInstruction = "",
    rename: DataRename = None,
    unit: DataUnit = None,
    any_contract: DataAnyContract = False,
    trim: Annotated[
        bool, typer.Option("--trim", help="To views: cut the idle start and end of every episode.")
    ] = False,
) -> None:
    """Write a data set in another form. An interrupted run is continued by the same command."""
    from dreamzero_policy.cli import data as room
    from dreamzero_policy.cli.console import console_for

    if to not in DATA_FORMS:
        raise typer.BadParameter(f"--to is {to}; expected {' or '.join(DATA_FORMS)}")
    if trim and to != "views":
        raise typer.BadParameter("--trim goes with --to views: a LeRobot data set keeps everything")
    console = console_for(False)
    with _one_line(console):
        given = room.contract_of(contract)
        choices = _data_choices(actions, instruction, rename, unit, any_contract)
        written, there = room.convert_data(source, destination, to, given, *choices, trim, console)
    console.print(f"wrote {written} episodes, {destination} holds {there}", markup=False)


def _data_choices(
    actions: str, instruction: str, rename: list[str] | None, unit: list[str] | None, any_contract: bool
) -> tuple["Matching", "BagReading"]:
    from dreamzero_policy.cli import data as room

    if actions not in room.ACTIONS:
        raise typer.BadParameter(f"--actions is {actions}; expected {' or '.join(room.ACTIONS)}")
    try:
        matching = room.matching_of(rename or [], unit or [], any_contract)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    return matching, room.BagReading(actions, instruction)


@contextmanager
def _one_line(console: Console) -> Iterator[None]:
    """What a checkpoint, contract, configuration or episode is refused for, in one line and exit code 1."""
    from dreamzero_policy.data.episodes import EpisodeError
    from dreamzero_policy.model.config import ConfigError
    from dreamzero_policy.model.weights import CheckpointError
    from dreamzero_policy.runtime.contract import ContractError

    try:
        yield
    except (CheckpointError, ConfigError, ContractError, EpisodeError) as error:
        console.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error


def main() -> None:
    app()


if __name__ == "__main__":
    main()
