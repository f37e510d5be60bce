"""`dreamzero chaos`."""

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from dreamzero_policy.cli.console import Json, console_for, print_json
from dreamzero_policy.runtime.interruption import interruption


def chaos(
    minutes: Annotated[float, typer.Option(min=0.5, max=1440.0, help="How long [min].")] = 2.0,
    faults: Annotated[
        bool, typer.Option(help="Without, the run is a soak: memory must not grow by more than 1 % in an hour.")
    ] = True,
    remote: Annotated[
        bool, typer.Option("--remote", help="The model is on a server, which is killed, stopped and restarted.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the scene and of the order of the faults.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder for logs; out/chaos/<time> by default.")] = None,
    json: Json = False,
) -> None:
    """Faults of every kind are injected while a simulated robot moves; what is commanded is audited."""
    interrupted = interruption()  # from here on, since importing what follows takes a second
    from dreamzero_policy.cli import chaos as room
    from dreamzero_policy.cli.chaos_stand import ChaosFailed
    from dreamzero_policy.cli.demo import Interrupted
    from dreamzero_policy.cli.processes import ProcessDied

    console = console_for(json)
    folder = out or Path("out") / "chaos" / datetime.now().strftime("%Y%m%d-%H%M%S")
    try:
        summary = room.run_chaos(minutes, seed, folder, console, interrupted, faults, remote)
    except (ChaosFailed, ProcessDied) as error:
        console.print(f"chaos failed: {error}", style="red", markup=False)
        raise typer.Exit(1) from error
    except Interrupted:
        console.print("stopped; nothing is left running")
        raise typer.Exit(130) from None
    room.report(summary, console)
    if json:
        print_json(summary)
    if not room.passed(summary):
        raise typer.Exit(1)
