"""`dreamzero calibrate`."""

from pathlib import Path
from typing import Annotated

import typer

from dreamzero_policy.cli.console import Json, console_for, one_line, print_json


def calibrate(
    bags: Annotated[list[Path], typer.Argument(help="rosbag2 of normal runs, with ~/surprise_cells and ~/chunk.")],
    checkpoint: Annotated[
        Path | None, typer.Option(help="What worked in them, and gets surprise.json; the shipped one.")
    ] = None,
    contract: Annotated[Path | None, typer.Option(help="Contract file; the shipped one by default.")] = None,
    json: Json = False,
) -> None:
    """What surprise is normal for a checkpoint, by bags of runs in which nothing went wrong."""
    from dreamzero_policy.cli import calibrate as room
    from dreamzero_policy.cli.share import shipped_checkpoint, shipped_contract_path
    from dreamzero_policy.runtime.contract import load_contract

    console = console_for(json)
    try:
        with one_line(console):
            loaded = load_contract(contract or shipped_contract_path())
            document = room.run(bags, checkpoint or shipped_checkpoint(), loaded)
    except room.CalibrationError as error:
        console.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error
    room.report(document, console)
    if json:
        print_json(document)
