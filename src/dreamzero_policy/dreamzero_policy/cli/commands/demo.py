"""`dreamzero demo`."""

from pathlib import Path
from typing import Annotated

import typer

from dreamzero_policy.cli.console import Json, console_for, print_json
from dreamzero_policy.runtime.interruption import interruption

IMAGE_WIDTHS = (320, 640)
TRANSPORTS = ("compressed", "raw")


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
    steps: Annotated[
        int, typer.Option(min=0, max=64, help="Denoising steps per chunk; 0: as many as the checkpoint says.")
    ] = 0,
    image_width: Annotated[int, typer.Option(help="Camera width in pixels, 320 or 640.")] = 320,
    transport: Annotated[str, typer.Option(help="compressed or raw images.")] = "compressed",
    checkpoint: Annotated[Path | None, typer.Option(help="Another checkpoint folder than the shipped one.")] = None,
    remote: Annotated[bool, typer.Option("--remote", help="The model on a server, in a process of its own.")] = False,
    json: Json = False,
) -> None:
    """A simulated AgiBot G1 moves by a world-action model over real ROS 2; bag, film and numbers are kept."""
    interrupted = interruption()  # from here on, since importing what follows takes a second
    from dreamzero_policy.cli import demo as room
    from dreamzero_policy.cli.processes import ProcessDied

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
        remote=remote,
    )
    try:
        summary = room.run_demo(options, console, interrupted)
    except (room.DemoFailed, ProcessDied) as error:
        console.print(f"demo failed: {error}", style="red", markup=False)
        raise typer.Exit(1) from error
    except room.Interrupted:
        console.print("stopped; nothing is left running")
        raise typer.Exit(130) from None
    room.report(summary, options.folder, console)
    if json:
        print_json(summary)
