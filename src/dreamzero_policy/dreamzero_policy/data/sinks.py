"""Sinks: where freshly made demonstrations go, one form each. A sink is small and is copied into every process.

`LeRobotSink` stages whole episodes of raw images that a `LeRobotWriter` packs into a data set afterwards; `ViewsSink`
writes the compact form, with pictures only where a frame of a window can stand. It alone takes attempts with advice,
which no robot can record: what was advised is carried out and undone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dreamzero_policy.data.advice import AdviceDraft
from dreamzero_policy.data.episodes import SUFFIX, Episode
from dreamzero_policy.data.lerobot.staging import FOLDER, Draft
from dreamzero_policy.data.lerobot.writer import LeRobotWriter
from dreamzero_policy.data.recordings import Images, picture_steps
from dreamzero_policy.runtime.contract import Contract
from dreamzero_policy.runtime.embodiment import Floats, Image, without_statistics

FORMS = ("lerobot", "views")


@dataclass(frozen=True)
class LeRobotSink:
    """Episodes of a LeRobot data set, staged; pack them with `LeRobotWriter`."""

    folder: Path
    contract: Contract
    packed: frozenset[str]
    picture_every: int = 1

    @classmethod
    def of(cls, writer: LeRobotWriter) -> "LeRobotSink":
        """Beside this writer, which packs what is staged."""
        return cls(writer.folder, writer.contract, writer.packed)

    def __contains__(self, name: str) -> bool:
        return name in self.packed or (self.folder / FOLDER / name).is_dir()

    def draft(self, name: str) -> Draft:
        return Draft(self.folder, name, self.contract, int(self.contract.model.action_hz))


@dataclass(frozen=True)
class ViewsSink:
    """`.npz` episodes."""

    folder: Path
    contract: Contract

    @property
    def picture_every(self) -> int:
        return int(picture_steps(self.contract.model, self.contract.model.chunk.actions)[1])

    def __contains__(self, name: str) -> bool:
        return (self.folder / f"{name}{SUFFIX}").exists()

    def draft(self, name: str) -> "ViewsDraft":
        self.folder.mkdir(parents=True, exist_ok=True)
        return ViewsDraft(self.folder / f"{name}{SUFFIX}", self.contract, self.picture_every)

    def advice_draft(self, name: str) -> AdviceDraft:
        return AdviceDraft(self.folder / f"{name}{SUFFIX}", self.contract)


class ViewsDraft:
    """One `.npz` episode under construction, in memory."""

    def __init__(self, path: Path, contract: Contract, picture_every: int) -> None:
        self._path, self._contract, self._every = path, contract, picture_every
        self._embodiment = without_statistics(contract)
        self._states: list[Floats] = []
        self._actions: list[Floats] = []
        self._pictures: list[Image] = []

    def __enter__(self) -> "ViewsDraft":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def add(self, state: Floats, action: Floats, images: Images) -> None:
        """The next step; images count at every `picture_every`-th step."""
        if len(self._states) % self._every == 0:
            self._pictures.append(self._embodiment.picture(images))
        self._states.append(state)
        self._actions.append(action)

    def finish(self, instructions: Sequence[str]) -> None:
        """Write the file whole or not at all."""
        steps = self._every * np.arange(len(self._pictures))
        canvas = np.array(self._pictures)
        words = tuple(instructions)
        Episode(words[0], np.array(self._states), np.array(self._actions), canvas, steps, words).save(
            self._path, self._contract
        )
