"""`dreamzero`: the one command line of the stack.

With --json a subcommand prints one JSON object on standard output and everything else on standard error.
"""

import json as json_module
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, add_completion=False, help="The ROS 2 runtime for world-action models.",
                  pretty_exceptions_enable=False)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output, all else on standard error.")]


@app.callback()
def dreamzero() -> None:
    """Keeps the subcommand's name even while there is only one."""


@app.command()
def demo(
    seconds: Annotated[float, typer.Option(min=3.0, max=3600.0, help="Length of the run [s].")] = 60.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the scene.")] = 0,
    prompt: Annotated[str | None, typer.Option(help="One instruction for the whole run instead of several in turn.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for bag, film and summary; out/demo/<time> by default.")] = None,
    viewer: Annotated[bool, typer.Option(help="Open MuJoCo's viewer, where a display exists.")] = False,
    steps: Annotated[int, typer.Option(min=1, max=64, help="Denoising steps per chunk.")] = 4,
    image_width: Annotated[int, typer.Option(help="Camera width in pixels, 320 or 640.")] = 320,
    transport: Annotated[str, typer.Option(help="compressed or raw images.")] = "compressed",
    checkpoint: Annotated[Path | None, typer.Option(help="Another checkpoint folder than the shipped one.")] = None,
    json: Json = False,
) -> None:
    """A simulated AgiBot G1 moves by a world-action model over real ROS 2; bag, film and numbers are kept."""
    from dreamzero_policy.cli import demo as room

    console = room.stderr_console(json)
    if viewer and not room.has_display():
        console.print("no display here: running without the viewer", style="yellow")
        viewer = False
    options = room.DemoOptions(seconds=seconds, seed=seed, prompts=tuple(room.tasks_for(prompt)),
                               folder=out or room.default_folder(), viewer=viewer, steps=steps, image_width=image_width,
                               transport=transport, checkpoint=checkpoint)
    try:
        summary = room.run_demo(options, console)
    except (room.DemoFailed, room.ProcessDied) as error:
        console.print(f"demo failed: {error}", style="red", markup=False)
        raise typer.Exit(1) from error
    except room.Interrupted:
        console.print("stopped; nothing is left running")
        raise typer.Exit(130) from None
    room.report(summary, options.folder, console)
    if json:
        typer.echo(json_module.dumps(summary))


def main() -> None:
    app()


if __name__ == "__main__":
    main()
