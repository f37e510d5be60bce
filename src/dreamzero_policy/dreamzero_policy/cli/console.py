"""Where a subcommand prints."""

import sys

from rich.console import Console


def console_for(json: bool) -> Console:
    """With --json, standard output belongs to the one JSON object and everything else goes to standard error."""
    return Console(file=sys.stderr if json else sys.stdout)
