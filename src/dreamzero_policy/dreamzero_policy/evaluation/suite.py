"""A suite: a simulated robot with tasks whose success can be told. What the evaluation asks of it, and how it is found.

Suites belong to their robots' packages. They are found by the entry point group `dreamzero.suites`, never by import; a
suite under development can also be named by its place, `package.module:Class` or `path/to/file.py:Class`.

A split and a seed name one scene with one task for good, so that every policy is asked the same.
"""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Protocol

from numpy.typing import NDArray

from dreamzero_policy.runtime.contract import Contract
from dreamzero_policy.runtime.embodiment import Floats, Image

GROUP = "dreamzero.suites"


class SuiteError(RuntimeError):
    """A suite that is not there or does not keep its word; the message names both sides."""


@dataclass(frozen=True)
class TaskInfo:
    """What an episode asks."""

    family: str  # touch, push, place, …
    novelty: str  # seen, or why an unseen episode is unseen: combination, position, phrasing, verb
    instruction: str
    duration_s: float  # time allowed


@dataclass(frozen=True)
class Outcome:
    """How far the task has been done."""

    progress: float  # [0, 1] best so far
    success: bool


class Joints(Protocol):
    positions: Floats  # [J] rad and m, in the suite's order


class Observation(Protocol):
    """What the robot reports at one instant."""

    stamp_ns: int
    joints: Joints
    images: Mapping[str, Image]  # camera → [height, width, 3] RGB; empty unless asked for


class Suite(Protocol):
    """A robot in a simulated place, on a clock that only `advance_to` moves."""

    splits: tuple[str, ...]  # ("seen", "unseen")
    joint_names: tuple[str, ...]  # the order of position vectors

    def reset(self, split: str, seed: int) -> TaskInfo:
        """Scene and task of this seed, the robot at home and at rest, the clock at 0."""

    def now_ns(self) -> int:
        """The suite's clock."""

    def advance_to(self, instant_ns: int) -> None:
        """Run physics, control and the task's judge up to an instant, rounded down to a physics step."""

    def observe(self, images: bool) -> Observation:
        """What the robot reports now, with a picture of every camera if asked."""

    def follow(self, joints: Sequence[str], stamps_ns: NDArray, positions: Floats, velocities: Floats | None) -> None:
        """From now on follow these points [N, J], due at absolute instants [N]; earlier ones are dropped.

        Cubic between points, straight lines without velocities.
        """

    def outcome(self) -> Outcome:
        """Progress and success up to now."""

    def close(self) -> None:
        """Free what the suite holds."""


class Telling(Suite, Protocol):
    """A suite that tells what its controllers command."""

    def commanded(self) -> Floats:
        """Where the joints were last told to be [J], in the order of `joint_names`."""


class Disturbing(Suite, Protocol):
    """A suite in which something can happen that no policy could foresee."""

    disturbances: tuple[str, ...]  # their names

    def disturb(self, kind: str) -> None:
        """It happens now, in the episode under way; a reset undoes it."""


class Demonstrating(Suite, Protocol):
    """A suite that also knows how its tasks are done."""

    def demonstration(self, contract: Contract) -> tuple[Sequence[str], Floats] | None:
        """How to do the task of the scene that was just reset, from where the robot stands.

        Joint names [J] and their commanded positions [N, J] in rad and m, one row every action step of the contract and
        inside its limits; None if no such motion is known. The same for the same split and seed.

        Raises:
            ValueError: the suite cannot demonstrate for this contract.
        """


def find_suite(name: str) -> Callable[[], Suite]:
    """What makes the suite of this name, or the one at this place.

    Raises:
        SuiteError: there is none; the message lists the known ones.
    """
    place, colon, attribute = name.rpartition(":")
    if colon:
        made = getattr(_module(place), attribute, None)
        if made is None:
            raise SuiteError(f"{place} has no {attribute!r}")
        return made
    known = {entry.name: entry for entry in entry_points(group=GROUP)}
    if name not in known:
        raise SuiteError(
            f"no suite {name!r} is installed, only {sorted(known)}; build the package that has it, or name its place, "
            "package.module:Class"
        )
    return known[name].load()


def demonstrates(make: Callable[[], Suite]) -> bool:
    """Whether what `find_suite` gives has demonstrations; of a function, unlike a class, only its suite will tell."""
    return not isinstance(make, type) or hasattr(make, "demonstration")


def _module(place: str) -> ModuleType:
    if not place.endswith(".py"):
        try:
            return importlib.import_module(place)
        except ModuleNotFoundError as error:
            raise SuiteError(f"there is no Python module {place!r}: {error}") from error
    path = Path(place)
    if not path.is_file():
        raise SuiteError(f"there is no file {path}")
    spec = importlib.util.spec_from_file_location(f"suite_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its own dataclasses look for it
    spec.loader.exec_module(module)
    return module
