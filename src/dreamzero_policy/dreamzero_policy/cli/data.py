"""`dreamzero data`: what a data set is, printed, and data sets written in another form."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from dreamzero_policy.cli.share import shipped_contract
from dreamzero_policy.data.bags import BagReading
from dreamzero_policy.data.dataset import Dataset, IdleRule, Source, open_source
from dreamzero_policy.data.episodes import SUFFIX, EpisodeError
from dreamzero_policy.data.inspection import describe
from dreamzero_policy.data.lerobot.reader import Matching
from dreamzero_policy.data.lerobot.writer import LeRobotWriter
from dreamzero_policy.runtime.contract import Contract, load_contract

FIRST_INSTRUCTIONS = 8  # how many are printed; --json has all
FIRST_PROBLEMS = 20
ACTIONS = ("commands", "next_state")


def contract_of(path: Path | None) -> Contract:
    """The contract file given, or the shipped one. Raises ContractError."""
    return load_contract(path) if path else shipped_contract()


def matching_of(renames: list[str], units: list[str], any_contract: bool) -> Matching:
    """Raises ValueError for what is not `LEFT=RIGHT`."""
    return Matching(_pairs(renames, "--rename"), _pairs(units, "--unit"), any_contract)


def inspect_data(
    folder: Path, contract: Contract, matching: Matching, reading: BagReading, check: bool, console: Console
) -> dict[str, Any]:
    source = open_source(folder, contract, matching, reading)
    with _progress(console, "reading") as progress:
        return describe(source, folder, contract, check, progress)


def convert_data(
    folder: Path,
    destination: Path,
    to: str,
    contract: Contract,
    matching: Matching,
    reading: BagReading,
    trim: bool,
    console: Console,
) -> tuple[int, int]:
    """Write every episode that the destination does not hold yet; gives how many were written and how many are there.

    Raises:
        EpisodeError: an episode cannot be used, or the source has no images to write.
    """
    source = open_source(folder, contract, matching, reading)
    if folder.resolve() == destination.resolve():
        raise EpisodeError(f"{destination} is the source itself; name another folder")
    with _progress(console, "converting") as progress:
        if to == "lerobot":
            return _to_lerobot(source, destination, contract, progress)
        return _to_views(Dataset(source, contract, IdleRule() if trim else None), destination, progress)


def _to_lerobot(source: Source, destination: Path, contract: Contract, progress: Callable) -> tuple[int, int]:
    written = 0
    with LeRobotWriter(destination, contract) as writer:
        for number, name in enumerate(source.names):
            progress(number, len(source.names))
            if name not in writer:
                writer.add(source.recording(name))
                written += 1
        return written, len(writer)


def _to_views(dataset: Dataset, destination: Path, progress: Callable) -> tuple[int, int]:
    destination.mkdir(parents=True, exist_ok=True)
    written = 0
    for number, name in enumerate(dataset.names):
        progress(number, len(dataset.names))
        path = destination / f"{name}{SUFFIX}"
        if not path.exists():
            dataset.episode(name).save(path, dataset.contract)
            written += 1
    return written, len(list(destination.glob(f"*{SUFFIX}")))


def report(document: dict[str, Any], console: Console) -> None:
    """Print what `describe` gave."""
    table = Table(title=document["folder"], title_justify="left", title_style="bold", show_header=False)
    table.add_row("format", document["format"])
    held_out = document["validation_episodes"]
    table.add_row("episodes", f"{document['episodes']}, of which {held_out} validate by the default split")
    table.add_row("steps", f"{document['steps']:,} at {document['fps']:g} per second, {document['hours']:.2f} h")
    if document["idle_steps"] is not None:
        share = 100 * document["idle_steps"] / max(1, document["steps"])
        table.add_row("idle ends", f"{document['idle_steps']:,} steps ({share:.0f} %)")
    cameras = (f"{name} {size[1]} x {size[0]}" for name, size in document["cameras"].items())
    table.add_row("cameras [px]", ", ".join(cameras) or "none")
    for kind, names in document["joints"].items():
        table.add_row(kind, f"{len(names)}: {', '.join(names)}" if names else "without names")
    console.print(table, markup=False)
    _instructions(document["instructions"], console)
    _fit(document["contract"], console)
    if problems := document["problems"]:
        console.print(f"{len(problems)} of {document['episodes']} episodes cannot be used", style="bold red")
        for problem in problems[:FIRST_PROBLEMS]:
            console.print(f"  {problem['problem']}", style="red", markup=False, highlight=False, soft_wrap=True)
    elif document["checked"]:
        console.print("every number and picture was read: no problems", style="green")
    else:
        console.print("not every picture was read; --check does", style="dim")


def _instructions(counts: dict[str, int], console: Console) -> None:
    console.print(f"{len(counts)} instructions", style="bold")
    for text, count in list(counts.items())[:FIRST_INSTRUCTIONS]:
        console.print(f"  {count:5d}  {text}", markup=False, highlight=False)
    if len(counts) > FIRST_INSTRUCTIONS:
        console.print(f"  … and {len(counts) - FIRST_INSTRUCTIONS} more", style="dim")


def _fit(fit: dict[str, Any], console: Console) -> None:
    verdict = "fits" if fit["fits"] else "does not fit"
    style = "green" if fit["fits"] else "red"
    console.print(f"contract {fit['embodiment']} {fit['hash'][:12]}: {verdict}", style=style, markup=False)
    for line in fit["differences"]:
        console.print(f"  {line}", markup=False)
    if fit["reason"] and not fit["differences"]:
        console.print(f"  {fit['reason']}", markup=False, highlight=False, soft_wrap=True)


@contextmanager
def _progress(console: Console, what: str) -> Iterator[Callable[[int, int], None]]:
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TextColumn("episodes"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _pairs(texts: list[str], option: str) -> dict[str, str]:
    pairs = [text.partition("=") for text in texts]
    if wrong := ["".join(pair) for pair in pairs if not all(pair)]:
        raise ValueError(f"{option} {wrong[0]!r}: expected NAME=NAME")
    return {left: right for left, _, right in pairs}
