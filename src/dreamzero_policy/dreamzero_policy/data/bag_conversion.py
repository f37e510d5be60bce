"""One bag into staged LeRobot episodes: what can be read of it, step by step, with everything else reported.

An episode goes on as long as every step follows the one before. Where a frame or state is missing, or an image cannot
be decoded, it ends, and another one begins behind: `run`, `run#1`, `run#2`. Pieces too short for one chunk are left
out, and that is reported. A bag without a command for every controller takes the next states as actions, where the
caller leaves the choice to the bag.

What became of a bag is kept in the data set, in `.bags/<name>.json`, once all of its episodes are staged. A bag with
such a record is not read again.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from dreamzero_policy.data.bag_events import BagEvents
from dreamzero_policy.data.bag_files import Bag, OpenBag
from dreamzero_policy.data.bag_walk import Actions, Segment, Step, Walk
from dreamzero_policy.data.bags import DECODERS, names_of, segments_of
from dreamzero_policy.data.episodes import EpisodeError
from dreamzero_policy.data.lerobot.layout import read_json, write_json
from dreamzero_policy.data.lerobot.staging import Draft
from dreamzero_policy.data.problems import Problems
from dreamzero_policy.data.sinks import LeRobotSink
from dreamzero_policy.runtime.embodiment import Image
from dreamzero_policy.runtime.observation import NS_PER_S, ObservationBuffer, ObservationError

RECORDS = ".bags"
AHEAD = 2  # steps whose images are being decoded
Progress = Callable[[float], None]  # share of the bag that has been read


@dataclass(frozen=True)
class BagOptions:
    """How bags become episodes."""

    actions: Literal["auto", "commands", "next_state"] = "auto"  # auto: commands where every controller has some
    instruction: str = ""  # of every bag; empty: what each bag says itself


@dataclass
class Converted:
    """What became of one bag."""

    bag: str
    bytes: int
    options: dict[str, Any]
    actions: str = ""  # commands or next_state
    why: str = ""  # next_state was taken
    episodes: list[str] = field(default_factory=list)
    steps: int = 0
    seconds: float = 0.0  # of recording
    refused: str = ""  # why nothing could be read
    damage: int = 0
    gaps: int = 0
    problems: list[dict[str, Any]] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        return not self.refused and not self.damage


def bag_name(bag: Path) -> str:
    return bag.name if bag.is_dir() else bag.stem


def bag_bytes(bag: Path) -> int:
    """Size of its files."""
    return sum(file.stat().st_size for file in (bag.glob("*") if bag.is_dir() else [bag]) if file.is_file())


def recorded(folder: Path, bag: Path, options: BagOptions) -> Converted | None:
    """What became of a bag that has been converted into this data set.

    Raises:
        EpisodeError: it was converted with other options, or has changed since.
    """
    path = folder / RECORDS / f"{bag_name(bag)}.json"
    if not path.is_file():
        return None
    found = Converted(**read_json(path))
    now = {"options": asdict(options), "bytes": bag_bytes(bag)}
    for name, value in now.items():
        if getattr(found, name) != value:
            raise EpisodeError(
                f"bag {bag} is in {folder} already, with {name} {getattr(found, name)}, now {value}; name another "
                "folder"
            )
    return found


def convert(bag: Path, sink: LeRobotSink, options: BagOptions, progress: Progress) -> Converted:
    """Stage what can be read of a bag; a bag of which nothing can be says why. Never raises for what is in it."""
    made, problems = Converted(str(bag), bag_bytes(bag), asdict(options)), Problems()
    try:
        with OpenBag(bag, problems) as opened:
            _convert(opened, sink, options, made, problems, progress)
    except EpisodeError as error:
        made.refused = str(error)
    made.damage, made.gaps, made.problems = problems.counts["damage"], problems.counts["gap"], problems.named
    if not made.refused:
        write_json(sink.folder / RECORDS / f"{bag_name(bag)}.json", asdict(made))
    return made


def _convert(
    bag: Bag, sink: LeRobotSink, options: BagOptions, made: Converted, problems: Problems, progress: Progress
) -> None:
    events = BagEvents(bag, sink.contract)
    made.seconds = events.seconds
    made.actions, made.why = _actions(events, options)
    segments = segments_of(bag, options.instruction, problems)
    names = names_of(bag.path, segments)
    walk = Walk(events, segments, made.actions, sink.contract, problems)
    pieces = [_Pieces(sink, name, segment, made) for name, segment in zip(names, segments, strict=True)]
    span_ns = max(1, bag.end_ns - bag.begin_ns)
    try:
        for step, images in _decoded(walk, events, problems):
            pieces[step.segment].add(step, images)
            progress((walk.heard_ns - bag.begin_ns) / span_ns)
        walk.note_early_ends()
        for piece in pieces:
            piece.end(problems)
    finally:
        for piece in pieces:
            piece.drop()
    if not made.episodes:
        first = problems.named[0] if problems.named else None
        reason = walk.reason() if walk.taken < 2 or first is None else f"{first['topic']}: {first['problem']}"
        raise EpisodeError(f"bag {bag.path} gives no episode: {reason}")


def _actions(events: BagEvents, options: BagOptions) -> tuple[Actions, str]:
    """Which actions to take, and why the next states if nobody asked for them."""
    if options.actions != "auto":
        return options.actions, ""
    if events.without_commands:
        return "next_state", f"no topic {events.without_commands[0]}/joint_trajectory"
    silent = [connection.topic for connection in events.command_connections if not connection.msgcount]
    return ("next_state", f"no message on {silent[0]}") if silent else ("commands", "")


def _decoded(walk: Walk, events: BagEvents, problems: Problems) -> Iterator[tuple[Step, dict[str, Image] | None]]:
    """Every step with its images; without, where one cannot be decoded. The next steps' are decoded meanwhile.

    Raises:
        EpisodeError: an image has another size than the contract's site says.
    """
    with ThreadPoolExecutor(DECODERS) as pool:
        waiting: list[tuple[Step, dict[str, Future]]] = []
        for step in walk.steps():
            waiting.append((step, {camera: pool.submit(frame.decode) for camera, frame in step.frames.items()}))
            if len(waiting) > AHEAD:
                yield _images(*waiting.pop(0), walk.buffer, events, problems)
        for step, begun in waiting:
            yield _images(step, begun, walk.buffer, events, problems)


def _images(
    step: Step, begun: dict[str, Future], buffer: ObservationBuffer, events: BagEvents, problems: Problems
) -> tuple[Step, dict[str, Image] | None]:
    images = {}
    for camera, future in begun.items():
        stamp_ns, topic = step.frames[camera].stamp_ns, events.topics[f"camera {camera}"]
        try:
            image = future.result()
        except ObservationError as error:
            problems.note("damage", topic, stamp_ns, str(error))
            return step, None
        try:
            images[camera] = buffer.sized(camera, image)
        except ObservationError as error:
            raise EpisodeError(f"{topic} at {stamp_ns / NS_PER_S:.3f} s: {error}. A bag of another robot?") from error
    return step, images


class _Pieces:
    """The episodes of one segment, one draft at a time."""

    def __init__(self, sink: LeRobotSink, name: str, segment: Segment, made: Converted) -> None:
        self._sink, self._name, self._segment, self._made = sink, name, segment, made
        self._least = sink.contract.model.chunk.actions + 1  # steps of a piece of which a chunk can be made
        self._draft: Draft | None = None
        self._number = 0  # of the piece
        self._steps = 0  # in it
        self._short = 0  # steps that were left out
        self._last: Step | None = None

    def add(self, step: Step, images: dict[str, Image] | None) -> None:
        """The next step; without images what was begun ends here."""
        if self._last is not None and step.number != self._last.number + 1:
            self._cut()
        self._last = step
        if images is None:
            self._cut()
            return
        if not self._steps and self._piece not in self._sink:  # else it is there, of a run that was interrupted
            self._draft = self._sink.draft(self._piece).__enter__()
        if self._draft is not None:
            self._draft.add(step.state, step.action, images)
        self._steps += 1

    def end(self, problems: Problems) -> None:
        """Keep what is left, and note what is left out."""
        if self._last is None:
            begin_ns = self._segment.begin_ns or 0
            text = f"episode {self._name}: none of its instants has everything; it is left out"
            problems.note("gap", str(self._segment.bag), begin_ns, text)
            return
        whole = self._number == 0 and self._short == 0
        self._cut(least=1 if whole else self._least)
        if self._short:
            topic = str(self._segment.bag)
            text = f"episode {self._name}: {self._short} steps in pieces of less than {self._least} are left out"
            problems.note("gap", topic, self._last.instant_ns, text)

    def drop(self) -> None:
        """Leave no draft behind."""
        if self._draft is not None:
            self._draft.__exit__(None, None, None)
            self._draft = None

    @property
    def _piece(self) -> str:
        return f"{self._name}#{self._number}" if self._number else self._name

    def _cut(self, least: int | None = None) -> None:
        """End the piece."""
        if not self._steps:
            return
        if self._steps < (self._least if least is None else least):
            self._short += self._steps
        else:
            if self._draft is not None:
                self._draft.finish(self._segment.instructions)
            self._made.episodes.append(self._piece)
            self._made.steps += self._steps
            self._number += 1
        self.drop()
        self._steps = 0
