"""Bags: rosbag2 recordings as demonstrations, aligned by the very observation buffer of live operation.

A bag is read in the order of its messages into an `ObservationBuffer`, and every step is taken when the buffer says
that it covers the instant: same nearest rule, same tolerances, same refusals as live. What was commanded is an explicit
choice: `commands`, the trajectories that the controllers were executing, or `next_state`, the joint states one step
later, for recordings without commands (hand-guided, other controllers). Nothing falls back from one to the other.

What was done is told by, in this order: the instruction given by the caller; `instructions.txt` in the bag's folder
(one phrasing a line); the policy's own `ActionChunk` messages, each run of accepted chunks with one prompt being an
episode of its own. A joint of the contract that is predicted and never commanded (a mobile base) is recorded as zero:
neither the runtime commands it nor the site has a topic for it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rosbags.highlevel import AnyReader
from rosbags.interfaces import Connection

from dreamzero_policy.data.bag_messages import (
    CHUNK,
    STATES,
    TRAJECTORY,
    OpenBag,
    camera_topics,
    decoded,
    duration_ns,
    image_decoder,
    is_bag,
    required_topic,
    stamp_ns,
    topic_of,
)
from dreamzero_policy.data.commands import CommandHistory
from dreamzero_policy.data.episodes import Episode, EpisodeError
from dreamzero_policy.data.recordings import Images, Recording, require_numbers, without_statistics
from dreamzero_policy.runtime.contract import Contract
from dreamzero_policy.runtime.embodiment import Floats
from dreamzero_policy.runtime.observation import NS_PER_S, MissingObservation, ObservationBuffer, ObservationError

Actions = Literal["commands", "next_state"]
INSTRUCTIONS = "instructions.txt"
ACCEPTED = 0  # ActionChunk.verdict


@dataclass(frozen=True)
class BagReading:
    """How bags become episodes."""

    actions: Actions = "commands"
    instruction: str = ""  # of every bag; empty: what each bag says itself


@dataclass(frozen=True)
class Segment:
    """One episode's share of a bag."""

    bag: Path
    instructions: tuple[str, ...]
    begin_ns: int | None  # None: where every source has begun
    end_ns: int | None


@dataclass(frozen=True, eq=False)
class Contents:
    """What a bag holds besides pixels."""

    begin_ns: int  # when every source has begun
    end_ns: int  # when the first of them ends
    commands: Sequence[CommandHistory]
    skew_s: float  # time of recording minus stamp, of the joint states


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
        self._step_ns = NS_PER_S / contract.model.action_hz

    @cached_property
    def segments(self) -> dict[str, Segment]:
        """Episodes by name. A bag that is one episode lends it its name; else the episodes are numbered."""
        found = {}
        for bag in bags_of(self.folder):
            segments = self._segments(bag)
            for number, segment in enumerate(segments):
                own = bag.name if bag.is_dir() else bag.stem
                name = own if segment.begin_ns is None else f"{own}.{number}"
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
        with _told(name), OpenBag(segment.bag) as reader:
            contents = self._contents(reader, segment.bag)
            instants_ns = self._grid(segment, contents)
            state = np.array([self._embodiment.state(positions) for positions in self._positions(reader, instants_ns)])
            if self.reading.actions == "next_state":
                action = self._embodiment.as_actions(state[1:])
                state, instants_ns = state[:-1], instants_ns[:-1]
            else:
                action = self._commanded(contents, instants_ns)
            require_numbers(name, state, action, self.contract.model)

        def images(steps: Sequence[int]) -> Iterator[Images]:
            with _told(name), OpenBag(segment.bag) as again:
                yield from self._images(again, segment.bag, [instants_ns[step] for step in steps])

        return Recording(name, segment.instructions, state, action, images)

    # What was done

    def _segments(self, bag: Path) -> list[Segment]:
        given = bag / INSTRUCTIONS
        if self.reading.instruction:
            return [Segment(bag, (self.reading.instruction,), None, None)]
        if given.is_file():
            lines = tuple(line.strip() for line in given.read_text(encoding="utf-8").splitlines() if line.strip())
            if not lines:
                raise EpisodeError(f"{given} is empty; write one phrasing of the instruction a line")
            return [Segment(bag, lines, None, None)]
        with OpenBag(bag) as reader:
            chunks = [c for c in reader.connections if c.msgtype == CHUNK]
            messages = [decoded(data, CHUNK, reader.typestore) for _, _, data in _messages(reader, chunks)]
        accepted = [message for message in messages if message.verdict == ACCEPTED]
        if not accepted:
            raise EpisodeError(
                f"bag {bag} does not say what was done: no accepted ActionChunk in it. Give --instruction, or write "
                f"{given} with one phrasing a line"
            )
        runs = groupby(accepted, key=lambda message: (message.session, message.epoch, message.prompt))
        segments = []
        for (_, _, prompt), run in runs:
            chunks_of_run = list(run)
            end_ns = max(_end_ns(message) for message in chunks_of_run)
            begin_ns = duration_ns(chunks_of_run[0].header.stamp)
            segments.append(Segment(bag, (prompt,), begin_ns, end_ns))
        return segments

    # Numbers

    def _contents(self, reader: AnyReader, bag: Path) -> Contents:
        """First and last stamps of every source, and the commands. Raises EpisodeError for a missing topic."""
        site = self.contract.site
        cameras = camera_topics(reader, self.contract, bag)
        sources = {f"camera {camera}": connection for camera, connection in cameras.items()}
        states = required_topic(reader, site.joint_states.topic, (STATES,), bag, "joint states")
        sources["joint states"] = states
        histories = {}
        if self.reading.actions == "commands":
            for controller in site.controllers:
                topic = f"{controller.name}/joint_trajectory"
                connection = required_topic(
                    reader, topic, (TRAJECTORY,), bag, f"controller {controller.name}", "; or take --actions next_state"
                )
                histories[connection.topic] = CommandHistory(controller)
        spans: dict[str, tuple[int, int]] = {}
        by_topic = {connection.topic: source for source, connection in sources.items()}
        skew_s = 0.0
        wanted = [c for c in reader.connections if c.topic in by_topic or c.topic in histories]
        for connection, recorded_ns, data in _messages(reader, wanted):
            if history := histories.get(connection.topic):
                add_trajectory(history, recorded_ns, decoded(data, TRAJECTORY, reader.typestore), connection.topic)
                continue
            source, stamp = by_topic[connection.topic], stamp_ns(data)
            first, last = spans.get(source, (stamp, stamp))
            if stamp < last:
                raise EpisodeError(
                    f"{source}: stamps do not increase, {last / NS_PER_S:.6f} s is followed by {stamp / NS_PER_S:.6f} s"
                )
            spans[source] = first, stamp
            skew_s = (recorded_ns - stamp) / NS_PER_S if source == "joint states" else skew_s
        if silent := sorted(set(sources) - set(spans)):
            raise EpisodeError(f"{silent[0]}: no message in {bag}")
        begins, ends = zip(*spans.values(), strict=True)
        return Contents(max(begins), min(ends), list(histories.values()), skew_s)

    def _grid(self, segment: Segment, contents: Contents) -> list[int]:
        """Instants of the steps: from where everything is there, in whole steps from the first observation."""
        earliest_ns = contents.begin_ns
        for history in contents.commands:
            if history.first_ns is None:
                raise EpisodeError(
                    f"controller {history.controller.name}: no command was recorded; take --actions next_state, or "
                    "record one that holds it"
                )
            earliest_ns = max(earliest_ns, history.first_ns)
        if contents.commands and abs(contents.skew_s) > self.contract.site.tolerances.silence_s:
            raise EpisodeError(
                f"joint states: recorded {contents.skew_s:+.1f} s after their stamps, so the bag does not tell when "
                "commands began; record on the clock of the stamps (use_sim_time) or take --actions next_state"
            )
        begin_ns = earliest_ns if segment.begin_ns is None else segment.begin_ns
        skipped = max(0, -int((begin_ns - earliest_ns) // self._step_ns))
        end_ns = contents.end_ns if segment.end_ns is None else min(segment.end_ns, contents.end_ns)
        last = int((end_ns - begin_ns) / self._step_ns)
        if last - skipped < 1:
            raise EpisodeError(
                f"cameras, joint states and commands have less than two steps in common, between "
                f"{max(begin_ns, earliest_ns) / NS_PER_S:.3f} s and {end_ns / NS_PER_S:.3f} s"
            )
        return [begin_ns + round(step * self._step_ns) for step in range(skipped, last + 1)]

    def _positions(self, reader: AnyReader, instants_ns: Sequence[int]) -> Iterator[dict[str, float]]:
        """Joint positions by name at each instant, by the rules of the observation buffer."""
        site = self.contract.site
        states = [c for c in reader.connections if c.topic.endswith("/" + site.joint_states.topic.lstrip("/"))]
        buffer, tolerance_ns = ObservationBuffer(self._embodiment), site.tolerances.state_s * NS_PER_S
        feed = _feed(buffer, reader, {}, states[0].topic)
        for instant_ns in instants_ns:
            _advance(feed, lambda instant_ns=instant_ns: buffer.joints.covers(instant_ns))
            sample = buffer.joints.nearest(instant_ns)
            if sample is None or abs(sample.stamp_ns - instant_ns) > tolerance_ns:
                gap = "none at all" if sample is None else f"{(sample.stamp_ns - instant_ns) / 1e6:+.1f} ms away"
                raise EpisodeError(
                    f"joint states: none at {instant_ns / NS_PER_S:.3f} s, the nearest is {gap}, "
                    f"tolerance {tolerance_ns / 1e6:.1f} ms"
                )
            yield dict(sample.positions)

    def _commanded(self, contents: Contents, instants_ns: Sequence[int]) -> Floats:
        """What was in execution at each step, in the contract's units."""
        rows = []
        for instant_ns in instants_ns:
            targets: dict[str, float] = {}
            for history in contents.commands:
                targets |= zip(history.controller.joints, history.at(instant_ns), strict=True)
            rows.append([targets.get(joint, np.nan) for joint in self.contract.model.state_joints])
        joints = self.contract.model.state_joints
        return self._embodiment.as_actions(
            np.array([self._embodiment.state(dict(zip(joints, row, strict=True))) for row in rows]),
        )

    # Images

    def _images(self, reader: AnyReader, bag: Path, instants_ns: Sequence[int]) -> Iterator[Images]:
        """Raw images of every camera at each instant: those that the observation buffer makes its block of."""
        buffer = ObservationBuffer(self._embodiment)
        cameras = {connection.topic: camera for camera, connection in camera_topics(reader, self.contract, bag).items()}
        states = topic_of(reader, self.contract.site.joint_states.topic, (STATES,), bag)
        feed = _feed(buffer, reader, cameras, states.topic)
        for instant_ns in instants_ns:
            _advance(feed, lambda instant_ns=instant_ns: buffer.covers(instant_ns))
            block = buffer.block(instant_ns, (0,))
            yield {
                camera: buffer.cameras[camera].nearest(stamps[0]).decode()
                for camera, stamps in block.frame_stamps_ns.items()
            }

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


def bags_of(folder: Path) -> list[Path]:
    """The folder itself if it is a bag, else the bags in it, by name."""
    return [folder] if is_bag(folder) else sorted(path for path in folder.glob("*") if is_bag(path))


class _told:  # noqa: N801 (reads as a phrase where it stands)
    """What goes wrong inside is told with the name of the episode."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, (EpisodeError, ObservationError, MissingObservation)):
            raise EpisodeError(f"episode {self._name}: {str(error).removeprefix(f'episode {self._name}: ')}") from error


def _messages(reader: AnyReader, connections: Sequence[Connection]) -> Iterator[tuple[Connection, int, bytes]]:
    return reader.messages(connections=connections) if connections else iter(())


def _end_ns(chunk: Any) -> int:
    """When the last row of an accepted chunk is over. One that names no first row is executed from row 0 on."""
    return duration_ns(chunk.start) + round((chunk.steps - getattr(chunk, "first_row", 0)) * chunk.step_s * NS_PER_S)


def _feed(buffer: ObservationBuffer, reader: AnyReader, cameras: dict[str, str], states: str) -> Iterator[None]:
    """Message by message into the buffer, in the order of recording."""
    wanted = [c for c in reader.connections if c.topic in cameras or c.topic == states]
    for connection, recorded_ns, data in _messages(reader, wanted):
        if camera := cameras.get(connection.topic):
            decode = image_decoder(camera, data, connection.msgtype, reader.typestore)
            buffer.add_image(camera, stamp_ns(data), recorded_ns, decode)
        else:
            message: Any = decoded(data, STATES, reader.typestore)
            buffer.add_joint_state(stamp_ns(data), recorded_ns, message.name, message.position)
        yield


def _advance(feed: Iterator[None], covered: Callable[[], bool]) -> None:
    """Feed until the instant is covered, or to the end of the bag."""
    while not covered():
        if next(feed, feed) is feed:
            return


def add_trajectory(history: CommandHistory, recorded_ns: int, message: Any, topic: str) -> None:
    """Keep a JointTrajectory message. Raises EpisodeError for one that no controller could follow."""
    points = message.points
    history.add(
        recorded_ns,
        duration_ns(message.header.stamp),
        message.joint_names,
        [duration_ns(point.time_from_start) for point in points],
        [point.positions for point in points],
        [point.velocities for point in points],
        topic,
    )
