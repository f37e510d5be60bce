"""`dreamzero`: the one command line of the stack.

With --json a subcommand prints one JSON object on standard output and everything else on standard error.
"""

import json as json_module
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="The ROS 2 runtime for world-action models.",
    pretty_exceptions_enable=False,
)

IMAGE_WIDTHS = (320, 640)
TRANSPORTS = ("compressed", "raw")
CHECKPOINT_LAYOUTS = ("release", "diffusers", "dreamzero")
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on standard output, all else on standard error.")
]


bench = typer.Typer(no_args_is_help=True, help="Measure.")
app.add_typer(bench, name="bench")
convert = typer.Typer(no_args_is_help=True, help="Write files in another form.")
app.add_typer(convert, name="convert")


@app.command()
def demo(
    seconds: Annotated[float, typer.Option(min=3.0, max=3600.0, help="Length of the run [s].")] = 60.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the scene.")] = 0,
    prompt: Annotated[
        str | None, typer.Option(help="One instruction for the whole run instead of several in turn.")
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
        prompts=tuple(room.tasks_for(prompt)),
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


@contextmanager
def _one_line(console: Console) -> Iterator[None]:
    """What a checkpoint, contract or configuration is refused for, in one line and exit code 1."""
    from dreamzero_policy.model.config import ConfigError
    from dreamzero_policy.model.weights import CheckpointError
    from dreamzero_policy.runtime.contract import ContractError

    try:
        yield
    except (CheckpointError, ConfigError, ContractError) as error:
        console.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error


def main() -> None:
    app()


if __name__ == "__main__":
    main()
