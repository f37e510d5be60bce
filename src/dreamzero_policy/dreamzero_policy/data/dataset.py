"""Data sets: a folder in any of the three forms, episode by episode, with its split and its statistics.

A folder is a LeRobot data set (`meta/info.json`), rosbag2 bags, or `.npz` episodes (views). Whatever it is, it gives
`Episode` objects of one contract. An episode's name decides by its hash whether it trains or validates: no episode
straddles the two, and none changes sides when others are added. Statistics are made once, from the training episodes,
and kept in a file with the contract's hash and a digest of what they were made from. Nothing is skipped: an episode
that cannot be used raises EpisodeError with its name.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from dreamzero_policy.data.bags import BagReading, BagSource, bags_of
from dreamzero_policy.data.episodes import SUFFIX, Episode, EpisodeError
from dreamzero_policy.data.idle import MARGIN_S, THRESHOLD, trimmed
from dreamzero_policy.data.lerobot.layout import is_lerobot
from dreamzero_policy.data.lerobot.reader import LeRobotSource, Matching
from dreamzero_policy.data.recordings import Recording
from dreamzero_policy.data.views import ViewsSource
from dreamzero_policy.data.windows import quantiles
from dreamzero_policy.runtime.contract import Contract
from dreamzero_policy.runtime.embodiment import Statistics, save_statistics, statistics_hash

VALIDATION = 0.1


class Source(Protocol):
    """A data set in one of its forms."""

    @property
    def format(self) -> str: ...

    @property
    def names(self) -> tuple[str, ...]: ...

    def episode(self, name: str, pictures: bool = True) -> Episode: ...

    def recording(self, name: str) -> Recording: ...

    def cameras(self) -> dict[str, tuple[int, int]]: ...

    def joints(self) -> dict[str, list[str]]: ...

    def steps(self, name: str) -> int: ...


@dataclass(frozen=True)
class Split:
    """Names of the episodes of each side."""

    train: tuple[str, ...]
    validation: tuple[str, ...]


@dataclass(frozen=True)
class IdleRule:
    """How idle ends are cut (`idle`)."""

    threshold: float = THRESHOLD
    margin_s: float = MARGIN_S


class Dataset:
    """Episodes of one contract."""

    def __init__(self, source: Source, contract: Contract, idle: IdleRule | None = None) -> None:
        """`idle` cuts the idle ends of every episode; None leaves episodes as they are."""
        self.source, self.contract, self._idle = source, contract, idle

    @property
    def names(self) -> tuple[str, ...]:
        return self.source.names

    def episode(self, name: str, pictures: bool = True) -> Episode:
        """One episode. Raises EpisodeError that names it."""
        episode = self.source.episode(name, pictures)
        if self._idle is None or episode.advised is not None:  # whose chunks have no idle ends
            return episode
        try:
            return trimmed(episode, self.contract.model, self._idle.threshold, self._idle.margin_s)
        except EpisodeError as error:
            raise EpisodeError(f"episode {name}: {error}") from error

    def episodes(self, names: Sequence[str] | None = None, pictures: bool = True) -> Iterator[Episode]:
        """One episode after the other, of all or of the given names."""
        for name in self.names if names is None else names:
            yield self.episode(name, pictures)

    def split(self, validation: float = VALIDATION) -> Split:
        """The two sides; `validation` is the expected share of episodes that validate."""
        sides: tuple[list[str], list[str]] = ([], [])
        for name in self.names:
            sides[validates(name, validation)].append(name)
        return Split(tuple(sides[0]), tuple(sides[1]))

    def statistics(self, path: Path, names: Sequence[str] | None = None) -> Statistics:
        """Quantiles of states and relative actions, from `path` if it was made of these episodes, else made and kept.

        Args:
            path: the statistics file, in the form that a checkpoint carries.
            names: the episodes they are made from; the training side by default.

        Raises:
            EpisodeError: an episode cannot be used.
            ContractError: the file belongs to another contract.
        """
        names = self.split().train if names is None else tuple(names)
        digest = hashlib.sha256(json.dumps([self._idle and vars(self._idle), *names]).encode()).hexdigest()
        if path.is_file():
            kept = Statistics.load(path, self.contract)
            if json.loads(path.read_text()).get("made_from") == digest:
                return kept
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(path.name + ".part")
        save_statistics(aside, self.contract, *quantiles(self.contract, self.episodes(names, pictures=False)))
        document = json.loads(aside.read_text()) | {"made_from": digest, "episodes": len(names)}
        document["hash"] = statistics_hash(document)
        aside.write_text(json.dumps(document, indent=1) + "\n")
        aside.replace(path)
        return Statistics.load(path, self.contract)


def open_source(
    folder: Path, contract: Contract, matching: Matching | None = None, reading: BagReading | None = None
) -> Source:
    """Whatever the folder holds.

    Args:
        folder: a LeRobot data set, a bag or a folder of bags, or a folder of `.npz` episodes.
        contract: what its episodes are for.
        matching: names and units of a foreign LeRobot data set.
        reading: actions and instruction of bags.

    Raises:
        EpisodeError: the folder holds none of the three, or more than one.
    """
    if not folder.exists():
        raise EpisodeError(f"{folder} does not exist")
    found = {
        "a LeRobot data set": is_lerobot(folder),
        "rosbag2 bags": bool(bags_of(folder)),
        "views": folder.is_dir() and any(folder.glob(f"*{SUFFIX}")),
    }
    kinds = [kind for kind, present in found.items() if present]
    if len(kinds) != 1:
        raise EpisodeError(
            f"{folder} holds {' and '.join(kinds) or 'no episodes'}; expected a LeRobot data set (meta/info.json), "
            f"rosbag2 bags (metadata.yaml or .mcap), or views (*{SUFFIX})"
        )
    if kinds[0] == "a LeRobot data set":
        return LeRobotSource(folder, contract, matching)
    return BagSource(folder, contract, reading) if kinds[0] == "rosbag2 bags" else ViewsSource(folder, contract)


def open_dataset(
    folder: Path,
    contract: Contract,
    idle: IdleRule | None = None,
    matching: Matching | None = None,
    reading: BagReading | None = None,
) -> Dataset:
    """`open_source` as a `Dataset`. Raises EpisodeError."""
    return Dataset(open_source(folder, contract, matching, reading), contract, idle)


def validates(name: str, share: float = VALIDATION) -> bool:
    """Whether the episode of this name is on the validation side. Depends on nothing but its name and the share."""
    place = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64
    return place < share
