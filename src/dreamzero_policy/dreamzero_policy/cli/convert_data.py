"""`dreamzero convert bag` and `dreamzero convert lerobot`: bags into a data set, and a data set into bags."""

import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.console import Console

from dreamzero_policy.cli.progress import followed
from dreamzero_policy.data.bag_conversion import BagOptions, Converted, bag_bytes, bag_name, convert, recorded
from dreamzero_policy.data.bag_writing import Pictures, left_out, write_bag
from dreamzero_policy.data.bags import bags_of
from dreamzero_policy.data.conversion_crew import results
from dreamzero_policy.data.episodes import EpisodeError
from dreamzero_policy.data.lerobot.layout import is_lerobot
from dreamzero_policy.data.lerobot.reader import LeRobotSource, Matching
from dreamzero_policy.data.lerobot.writer import LeRobotWriter
from dreamzero_policy.data.sinks import LeRobotSink
from dreamzero_policy.runtime.contract import Contract

STAGING = ".staging"
MB = 1e6
FIRST_PROBLEMS = 20  # printed; --json has more


@dataclass(frozen=True)
class BagWork:
    """What every process does with a bag."""

    sink: LeRobotSink
    options: BagOptions

    def __call__(self, bag: Path, progress: Callable[[float], None]) -> Converted:
        return convert(bag, self.sink, self.options, progress)


def bags_to_lerobot(
    source: Path, destination: Path, contract: Contract, options: BagOptions, processes: int, console: Console
) -> dict[str, Any]:
    """Convert what the data set does not hold yet, and say what became of every bag.

    Raises:
        EpisodeError: there is no bag, two have one name, or the destination is of other data or options.
    """
    bags = _bags(source, destination)
    began = time.monotonic()
    with LeRobotWriter(destination, contract) as writer:
        before = {bag: recorded(destination, bag, options) for bag in bags}
        due = [bag for bag in bags if before[bag] is None]
        sizes = [bag_bytes(bag) / MB for bag in due]
        made: dict[Path, Converted] = {}
        work = BagWork(LeRobotSink.of(writer), options)
        with _shares(console, "converting [MB]", sizes) as (heard, ended):
            for number, converted in results(work, due, processes, heard):
                made[due[number]] = converted
                ended(number, f"{sum(len(one.episodes) for one in made.values())} episodes")
                writer.pack_when_due()
    everything = [made.get(bag) or before[bag] for bag in bags]
    seconds, wall_s = sum(one.seconds for one in made.values()), time.monotonic() - began
    return {
        "source": str(source),
        "destination": str(destination),
        "bags": len(bags),
        "converted": sum(not one.refused for one in made.values()),
        "there_before": len(bags) - len(due),
        "refused": sum(bool(one.refused) for one in everything),
        "episodes": sum(len(one.episodes) for one in everything),
        "steps": sum(one.steps for one in everything),
        "damage": sum(one.damage for one in everything),
        "gaps": sum(one.gaps for one in everything),
        "seconds": seconds,
        "wall_s": wall_s,
        "realtime_factor": seconds / wall_s,
        "by_bag": [asdict(one) for one in everything],
    }


def _bags(source: Path, destination: Path) -> list[Path]:
    if not source.exists():
        raise EpisodeError(f"{source} does not exist")
    if source.resolve() == destination.resolve():
        raise EpisodeError(f"{destination} is the source itself; name another folder")
    bags = bags_of(source, damaged=True)
    if not bags:
        raise EpisodeError(f"{source} holds no bag: expected folders with metadata.yaml, or .mcap or .db3 files")
    named: dict[str, Path] = {}
    for bag in bags:
        if (other := named.setdefault(bag_name(bag), bag)) != bag:
            raise EpisodeError(f"bags {other} and {bag} have one name, {bag_name(bag)}; rename one")
    return bags


def report_bags(document: dict[str, Any], console: Console) -> None:
    """What became of every bag, for a person."""
    for one in document["by_bag"]:
        if one["why"]:
            _line(console, f"{one['bag']}: no joint commands ({one['why']}); its actions are the next states", "yellow")
    problems = [(one, problem) for one in document["by_bag"] for problem in one["problems"]]
    for one, problem in problems[:FIRST_PROBLEMS]:
        text = f"{problem['kind']}: {problem['topic']} at {problem['time_s']:.6f} s: {problem['problem']}"
        text = text if one["bag"] in text else f"{one['bag']}: {text}"
        _line(console, text, "red" if problem["kind"] == "damage" else "yellow")
    if (more := document["damage"] + document["gaps"] - FIRST_PROBLEMS) > 0:
        console.print(f"… and {more} more", style="dim")
    for one in document["by_bag"]:
        if one["refused"]:
            _line(console, f"{one['bag']} was not converted: {one['refused']}", "red")
    console.print(
        f"{document['destination']}: {document['episodes']} episodes, {document['steps']:,} steps from "
        f"{document['bags'] - document['refused']} of {document['bags']} bags, {document['there_before']} of them "
        f"there before; {document['realtime_factor']:.1f} x real time",
        markup=False,
        highlight=False,
    )


def sound(document: dict[str, Any]) -> bool:
    """Whether everything could be read."""
    return not document["refused"] and not document["damage"]


# The other way


@dataclass
class Written:
    """What became of one episode."""

    episode: str
    steps: int = 0
    refused: str = ""
    left_out: float = 0.0  # the largest action that has no topic


@dataclass
class EpisodeWork:
    """What every process does with an episode."""

    source: Path
    destination: Path
    contract: Contract
    matching: Matching
    pictures: Pictures

    @cached_property
    def _opened(self) -> LeRobotSource:
        return LeRobotSource(self.source, self.contract, self.matching)

    def __call__(self, name: str, progress: Callable[[float], None]) -> Written:
        staged = self.destination / STAGING / name
        shutil.rmtree(staged, ignore_errors=True)
        staged.parent.mkdir(parents=True, exist_ok=True)
        try:
            recording = self._opened.recording(name)
            write_bag(recording, staged, self.contract, self.pictures, progress)
        except EpisodeError as error:
            shutil.rmtree(staged, ignore_errors=True)
            return Written(name, refused=str(error))
        staged.rename(self.destination / name)
        return Written(name, recording.steps, left_out=left_out(recording, self.contract))


def lerobot_to_bags(
    source: Path,
    destination: Path,
    contract: Contract,
    matching: Matching,
    pictures: Pictures,
    processes: int,
    console: Console,
) -> dict[str, Any]:
    """Write a bag of every episode that has none yet.

    Raises:
        EpisodeError: the source is no data set of this contract.
    """
    if not is_lerobot(source):
        raise EpisodeError(f"{source} is no LeRobot data set: it has no meta/info.json")
    if source.resolve() == destination.resolve():
        raise EpisodeError(f"{destination} is the source itself; name another folder")
    opened = LeRobotSource(source, contract, matching)
    opened.require_fit()
    began = time.monotonic()
    due = [name for name in opened.names if not (destination / name).is_dir()]
    steps = [opened.steps(name) for name in due]
    made: list[Written] = []
    work = EpisodeWork(source, destination, contract, matching, pictures)
    destination.mkdir(parents=True, exist_ok=True)
    with _shares(console, "writing [steps]", steps) as (heard, ended):
        for number, written in results(work, due, processes, heard):
            made.append(written)
            ended(number, f"{len(made)} episodes")
    shutil.rmtree(destination / STAGING, ignore_errors=True)
    return {
        "source": str(source),
        "destination": str(destination),
        "episodes": len(opened.names),
        "written": sum(not one.refused for one in made),
        "there_before": len(opened.names) - len(due),
        "refused": sum(bool(one.refused) for one in made),
        "steps": sum(one.steps for one in made),
        "left_out": max((one.left_out for one in made), default=0.0),
        "damage": 0,
        "wall_s": time.monotonic() - began,
        "by_episode": [asdict(one) for one in made],
    }


def report_episodes(document: dict[str, Any], console: Console) -> None:
    for one in document["by_episode"]:
        if one["refused"]:
            _line(console, f"not written: {one['refused']}", "red")
    if document["left_out"]:
        text = f"actions without a topic (never commanded) were left out, of up to {document['left_out']:.3f}"
        _line(console, text, "yellow")
    console.print(
        f"{document['destination']}: {document['written']} bags written, {document['there_before']} were there before, "
        f"{document['refused']} episodes could not be read",
        markup=False,
        highlight=False,
    )


# What both print


class _shares:  # noqa: N801 (reads as a noun where it stands)
    """A bar over things of different sizes, of which several are under way."""

    def __init__(self, console: Console, name: str, sizes: list[float]) -> None:
        self._sizes, self._done = sizes, [0.0] * len(sizes)
        self._told, self._said = 0, ""
        self._bar = followed(console, name, max(1, round(sum(sizes))))

    def __enter__(self) -> tuple[Callable[[int, float], None], Callable[[int, str], None]]:
        self._note = self._bar.__enter__()
        return self._heard, self._ended

    def __exit__(self, *error: object) -> None:
        self._bar.__exit__(*error)

    def _heard(self, number: int, share: float) -> None:
        self._done[number] = max(self._done[number], min(1.0, share))
        done = round(sum(size * part for size, part in zip(self._sizes, self._done, strict=True)))
        if done > self._told:
            self._note(done - self._told, self._said, self._said)
            self._told = done

    def _ended(self, number: int, said: str) -> None:
        self._said = said
        self._heard(number, 1.0)


def _line(console: Console, text: str, style: str) -> None:
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)
