"""How far something is that is made piece by piece: a bar on a terminal, a line now and then elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

PLAIN_EVERY_S = 10.0  # between lines where there is no terminal


@contextmanager
def followed(console: Console, name: str, total: int) -> Iterator[Callable[[int, str, str], None]]:
    """Gives a function to call after every piece: how much more is done, and what to say on a bar and on a line."""
    columns = (
        TextColumn(name),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[said]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    began = shown = time.monotonic()
    done = 0
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=total, said="")

        def note(more: int, bar: str, line: str) -> None:
            nonlocal done, shown
            done += more
            progress.update(task, advance=more, said=bar)
            now = time.monotonic()
            if not console.is_terminal and (now - shown > PLAIN_EVERY_S or done == total):
                shown = now
                left_min = (now - began) / done * (total - done) / 60
                console.print(f"{done}/{total}  {line}  {left_min:.1f} min left")

        yield note
