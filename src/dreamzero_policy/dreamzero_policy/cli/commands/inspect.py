"""`dreamzero inspect`."""

from pathlib import Path
from typing import Annotated

import typer

from dreamzero_policy.cli.console import Json, console_for, one_line, print_json


def inspect(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint folder, in any layout.")],
    base: Annotated[Path | None, typer.Option(help="The checkpoint that its adapters were trained on.")] = None,
    contract: Annotated[Path | None, typer.Option(help="A contract file to compare it with.")] = None,
    json: Json = False,
) -> None:
    """What a checkpoint is: variant, components, embodiments, statistics, chunk, contract fit. Reads no weights."""
    from dreamzero_policy.cli import inspect as room
    from dreamzero_policy.inference.inspection import describe

    console = console_for(json)
    with one_line(console):
        document = describe(checkpoint, base=base, contract=contract)
    if json:
        print_json(document)
    else:
        room.report(document, console)
