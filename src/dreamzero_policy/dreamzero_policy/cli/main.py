"""`dreamzero`: the one command line of the stack.

With --json a subcommand prints one JSON object on standard output and everything else on standard error.
"""

import json as json_module
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="The ROS 2 runtime for world-action models.",
    pretty_exceptions_enable=False,
)

IMAGE_WIDTHS = (320, 640)
TRANSPORTS = ("compressed", "raw")
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on standard output, all else on standard error.")
]


bench = typer.Typer(no_args_is_help=True, help="Measure.")
app.add_typer(bench, name="bench")


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
    threads: Annotated[int, typer.Option(min=1, help="Threads of the model.")] = 1,
    dtype: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    blocks: Annotated[int, typer.Option(min=4, help="Blocks measured for each number of steps.")] = 16,
    json: Json = False,
) -> None:
    """Time of observe and predict for a checkpoint on this machine."""
    from dreamzero_policy.cli import bench as room
    from dreamzero_policy.cli.console import console_for
    from dreamzero_policy.cli.share import shipped_checkpoint

    console = console_for(json)
    document = room.bench_model(
        checkpoint or shipped_checkpoint(), steps or [16, 4, 1], threads, dtype, blocks, console
    )
    if json:
        typer.echo(json_module.dumps(document))
    else:
        room.report(document, console)


def main() -> None:
    app()


if __name__ == "__main__":
    main()
