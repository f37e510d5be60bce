"""What the subcommands share: where they print, what --json prints, and how a refusal reads."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from json import dumps
from typing import Annotated, Any

import typer
from rich.console import Console

Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on standard output, all else on standard error.")
]


def console_for(json: bool) -> Console:
    """With --json, standard output belongs to the one JSON object and everything else goes to standard error."""
    return Console(file=sys.stderr if json else sys.stdout)


def print_json(document: dict[str, Any]) -> None:
    """The one JSON object."""
    typer.echo(dumps(document))


@contextmanager
def one_line(console: Console) -> Iterator[None]:
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
