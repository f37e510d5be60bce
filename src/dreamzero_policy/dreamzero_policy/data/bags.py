"""Bags: rosbag2 recordings as demonstrations, aligned by the very observation buffer of live operation (`bag_walk`).

What was commanded is an explicit choice: `commands`, the trajectories that the controllers were executing, or
`next_state`, the joint states one step later, for recordings without commands (hand-guided, other controllers). Nothing
falls back from one to the other.

What was done is told by, in this order: the instruction given by the caller; `instructions.txt` in the bag's folder
(one phrasing a line); the policy's own `ActionChunk` messages, each run of accepted chunks with one prompt being an
episode of its own. A joint of the contract that is predicted and never commanded (a mobile base) is recorded as zero:
neither the runtime commands it nor the site has a topic for it.

Here a bag is sound or refused; `bag_conversion` takes what can be read of a damaged one.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from dreamzero_policy.data.bag_errors import DAMAGED
from dreamzero_policy.data.bag_events import BagEvents
from dreamzero_policy.data.bag_files import Bag, OpenBag, is_bag, lost_metadata
from dreamzero_policy.data.bag_messages import CHUNK, decoded, duration_ns
from dreamzero_policy.data.bag_walk import Actions, Segment, Step, Walk
from dreamzero_policy.data.episodes import Episode, EpisodeError
from dreamzero_policy.data.problems import Problems, Refused
from dreamzero_policy.data.recordings import Images, Recording, require_numbers
from dreamzero_policy.runtime.contract import Contract
from dreamzero_policy.runtime.embodiment import without_statistics
from dreamzero_policy.runtime.observation import NS_PER_S, ObservationBuffer, ObservationError

INSTRUCTIONS = "instructions.txt"
ACCEPTED = 0  # ActionChunk.verdict
DECODERS = 2  # threads; decoding leaves Python alone


@dataclass(frozen=True)
class BagReading:
    """How bags become episodes."""

    actions: Actions = "commands"
    instruction: str = ""  # of every bag; empty: what each bag says itself


class BagSource:
    """A bag, or a folder of bags."""

    def __init__(self, folder: Path, contract: Contract, reading: BagReading | None = None) -> None:
        """Find the bags and what was done in them.

        Raises:
            EpisodeError: a bag is damaged or does not say what was done.
        """
        self.folder, self.contract = folder, contract
        self.reading = reading or BagReading()
        self._embodiment = without_statistics(contract)

    @cached_property
    def segments(self) -> dict[str, Segment]:
        """Episodes by name. A bag that is one episode lends it its name; else the episodes are numbered."""
        found = {}
        for bag in bags_of(self.folder):
            with OpenBag(bag) as opened:
                segments = segments_of(opened, self.reading.instruction)
            for name, segment in zip(names_of(bag, segments), segments, strict=True):
                if name in found:
                    raise EpisodeError(f"bags {found[name].bag} and {bag} have one name, {name}; rename one")
                found[name] = segment
        return found

    @property
    def format(self) -> str:
        return "rosbag2"

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.segments)

    def episode(self, name: str, pictures: bool = True) -> Episode:
        """The compact form. Raises EpisodeError as `recording`, and for damaged or missing frames."""
        return self.recording(name).episode(self._embodiment, pictures)

    def recording(self, name: str) -> Recording:
        """One episode on the contract's action grid.

        Raises:
            EpisodeError: names the episode and what cannot be used.
        """
        segment = self.segments[name]
        with _told(name), OpenBag(segment.bag) as bag:
            walk = self._walk(bag, segment)
            rows = [(step.state, step.action) for step in walk.steps()]
            if walk.taken < 2:
                raise EpisodeError(walk.reason())
            state, action = (np.array(column) for column in zip(*rows, strict=True))
            require_numbers(name, state, action, self.contract.model)

        def images(steps: Sequence[int]) -> Iterator[Images]:
            with _told(name), OpenBag(segment.bag) as again:
                walk = self._walk(again, segment)
                yield from pictures_of(_chosen(walk.steps(), steps), walk.buffer)

        return Recording(name, segment.instructions, state, action, images)

    def _walk(self, bag: Bag, segment: Segment) -> Walk:
        refused = Refused()
        return Walk(BagEvents(bag, self.contract), [segment], self.reading.actions, self.contract, refused)

    # For a reader of the data set

    def cameras(self) -> dict[str, tuple[int, int]]:
        """(height, width) of the contract's cameras as the site has them."""
        return {name: (site.height_px, site.width_px) for name, site in self.contract.site.cameras.items()}

    def joints(self) -> dict[str, list[str]]:
        """Names of state and action: the contract's, which every message is checked against."""
        commanded = list(self.contract.model.commanded_joints)
        return {"state": list(self.contract.model.state_joints), "action": commanded}

    def steps(self, name: str) -> int:
        """Steps of an episode on the contract's action grid."""
        return self.recording(name).steps


def bags_of(folder: Path, damaged: bool = False) -> list[Path]:
    """The folder itself if it is a bag, else the bags in it, by name; `damaged`: without metadata.yaml as well."""
    found = [path for path in (folder, *sorted(folder.glob("*"))) if is_bag(path) or (damaged and lost_metadata(path))]
    return found[:1] if folder in found else found


def segments_of(bag: Bag, instruction: str = "", problems: Problems | None = None) -> list[Segment]:
    """What was done in a bag, in the order of its begin.

    Args:
        bag: open.
        instruction: of the whole bag; empty: what it says itself.
        problems: notes chunks that cannot be read; without, they are refused.

    Raises:
        EpisodeError: it does not say what was done.
    """
    path, given = bag.path, bag.path / INSTRUCTIONS
    if instruction:
        return [Segment(path, (instruction,), None, None)]
    if given.is_file():
        lines = tuple(line.strip() for line in given.read_text(encoding="utf-8").splitlines() if line.strip())
        if not lines:
            raise EpisodeError(f"{given} is empty; write one phrasing of the instruction a line")
        return [Segment(path, lines, None, None)]
    accepted = [chunk for chunk in _chunks(bag, problems or Refused()) if chunk.verdict == ACCEPTED]
    if not accepted:
        raise EpisodeError(
            f"bag {path} does not say what was done: no accepted ActionChunk in it. Give --instruction, or write "
            f"{given} with one phrasing a line"
        )
    segments = []
    for (_, _, prompt), run in groupby(accepted, key=lambda chunk: (chunk.session, chunk.epoch, chunk.prompt)):
        chunks = list(run)
        begin_ns = duration_ns(chunks[0].header.stamp)
        segments.append(Segment(path, (prompt,), begin_ns, max(_end_ns(chunk) for chunk in chunks)))
    return segments


def names_of(bag: Path, segments: Sequence[Segment]) -> list[str]:
    """A bag that is one episode lends it its name; else the episodes are numbered."""
    own = bag.name if bag.is_dir() else bag.stem
    return [own if segment.begin_ns is None else f"{own}.{number}" for number, segment in enumerate(segments)]


def pictures_of(steps: Iterator[Step], buffer: ObservationBuffer, threads: int = DECODERS) -> Iterator[Images]:
    """RGB images of every camera for one step after the other, the next one's being decoded meanwhile.

    Raises:
        ObservationError: an image cannot be decoded or has another size.
    """
    with ThreadPoolExecutor(threads) as pool:
        waiting = None
        for step in steps:
            begun = {camera: pool.submit(frame.decode) for camera, frame in step.frames.items()}
            if waiting is not None:
                yield {camera: buffer.sized(camera, image.result()) for camera, image in waiting.items()}
            waiting = begun
        if waiting is not None:
            yield {camera: buffer.sized(camera, image.result()) for camera, image in waiting.items()}


def _chunks(bag: Bag, problems: Problems) -> Iterator[Any]:
    """Messages of the policy."""
    topics = {connection.topic for connection in bag.connections if connection.msgtype == CHUNK}
    if not topics:
        return
    for connection, recorded_ns, data in bag.messages(topics, told=False):
        try:
            chunk = decoded(data, CHUNK, bag.typestore)
        except DAMAGED as error:
            problems.note("damage", connection.topic, recorded_ns, f"cannot be read: {type(error).__name__}: {error}")
            continue
        yield chunk


def _chosen(steps: Iterator[Step], wanted: Sequence[int]) -> Iterator[Step]:
    """The steps with these rising places among all."""
    upcoming = iter(wanted)
    place = next(upcoming, None)
    for number, step in enumerate(steps):
        if place is None:
            return
        if number == place:
            yield step
            place = next(upcoming, None)


class _told:  # noqa: N801 (reads as a phrase where it stands)
    """What goes wrong inside is told with the name of the episode."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, (EpisodeError, ObservationError)):
            raise EpisodeError(f"episode {self._name}: {str(error).removeprefix(f'episode {self._name}: ')}") from error


def _end_ns(chunk: Any) -> int:
    """When the last row of an accepted chunk is over. One that names no first row is executed from row 0 on."""
    return duration_ns(chunk.start) + round((chunk.steps - getattr(chunk, "first_row", 0)) * chunk.step_s * NS_PER_S)
