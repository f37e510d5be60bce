"""What a bag said, as a stream of events in the order of recording: pictures, joint states, commands; and chunks.

Nothing is kept: events are made when they are asked for, so a bag may be of any length. A message that cannot be read
is an event too, with its topic and its time; a file that cannot be read further ends the stream with an EpisodeError
that says where. Chunks come by a stream of their own, since a chunk is recorded behind the frames that it names.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rosbags.highlevel import AnyReader
from rosbags.interfaces import Connection

from dreamzero_policy.data.bag_messages import (
    CHUNK,
    DAMAGED,
    STATES,
    TRAJECTORY,
    camera_topics,
    decoded,
    image_decoder,
    is_bag,
    required_topic,
    stamp_ns,
    topic_of,
)
from dreamzero_policy.data.bags import INSTRUCTIONS
from dreamzero_policy.data.episodes import EpisodeError
from dreamzero_policy.replay.live import LiveChunk
from dreamzero_policy.runtime.contract import Contract, Controller
from dreamzero_policy.runtime.embodiment import Image
from dreamzero_policy.runtime.observation import NS_PER_S


@dataclass(frozen=True, eq=False)
class Picture:
    """An image of a camera; `decode` may raise ObservationError."""

    topic: str
    recorded_ns: int
    stamp_ns: int
    camera: str
    decode: Callable[[], Image]


@dataclass(frozen=True, eq=False)
class Joints:
    """A joint state."""

    topic: str
    recorded_ns: int
    stamp_ns: int
    names: Sequence[str]
    positions: Sequence[float]


@dataclass(frozen=True, eq=False)
class Trajectory:
    """What a controller was sent."""

    topic: str
    recorded_ns: int
    controller: Controller
    message: Any


@dataclass(frozen=True)
class Unreadable:
    """A message that is broken."""

    topic: str
    recorded_ns: int
    reason: str


Event = Picture | Joints | Trajectory | Unreadable


class BagStream:
    """An open bag for one contract."""

    def __init__(self, reader: AnyReader, bag: Path, contract: Contract) -> None:
        """Find the topics.

        Raises:
            EpisodeError: a camera or the joint states are missing, or a topic is ambiguous or of another type.
        """
        self._reader, self.bag, self.contract = reader, bag, contract
        site = contract.site
        cameras = camera_topics(reader, contract, bag)
        self._cameras = {connection.topic: camera for camera, connection in cameras.items()}
        self._states = required_topic(reader, site.joint_states.topic, (STATES,), bag, "joint states").topic
        self.topics = {f"camera {camera}": connection.topic for camera, connection in cameras.items()}
        self.topics["joint states"] = self._states  # by the names that the observation buffer calls its sources
        found = {c.name: topic_of(reader, f"{c.name}/joint_trajectory", (TRAJECTORY,), bag) for c in site.controllers}
        self._controllers = {found[c.name].topic: c for c in site.controllers if found[c.name] is not None}
        self.has_commands = len(self._controllers) == len(site.controllers)
        self._chunks = {connection.topic for connection in reader.connections if connection.msgtype == CHUNK}
        if len(self._chunks) > 1:
            raise EpisodeError(f"bag {bag} holds chunks of several nodes, {sorted(self._chunks)}; keep one of them")

    @property
    def begin_ns(self) -> int:
        """When the first message was recorded."""
        return self._reader.start_time

    @property
    def seconds(self) -> float:
        """From the first message to the last."""
        return max(0, self._reader.end_time - self._reader.start_time) / NS_PER_S

    @property
    def instruction(self) -> str:
        """The first phrasing of the file beside the bag; empty if there is none."""
        given = self.bag / INSTRUCTIONS
        lines = given.read_text(encoding="utf-8").splitlines() if given.is_file() else []
        return next((line.strip() for line in lines if line.strip()), "")

    def events(self) -> Iterator[Event]:
        """All that the node hears. Raises EpisodeError where the file cannot be read further."""
        for connection, recorded_ns, data in self._messages({*self._cameras, self._states, *self._controllers}):
            try:
                yield self._event(connection, recorded_ns, data)
            except DAMAGED as error:
                yield Unreadable(connection.topic, recorded_ns, f"{type(error).__name__}: {error}")

    def live_chunks(self) -> Iterator[LiveChunk | Unreadable]:
        """What the node published. Raises EpisodeError where the file cannot be read further."""
        for connection, recorded_ns, data in self._messages(self._chunks):
            try:
                yield LiveChunk.of(decoded(data, CHUNK, self._reader.typestore))
            except DAMAGED as error:
                yield Unreadable(connection.topic, recorded_ns, f"{type(error).__name__}: {error}")

    def _event(self, connection: Connection, recorded_ns: int, data: bytes) -> Event:
        topic, types = connection.topic, self._reader.typestore
        if camera := self._cameras.get(topic):
            decode = image_decoder(camera, data, connection.msgtype, types)
            return Picture(topic, recorded_ns, stamp_ns(data), camera, decode)
        if controller := self._controllers.get(topic):
            return Trajectory(topic, recorded_ns, controller, decoded(data, TRAJECTORY, types))
        message = decoded(data, STATES, types)
        return Joints(topic, recorded_ns, stamp_ns(data), message.name, message.position)

    def _messages(self, topics: set[str]) -> Iterator[tuple[Connection, int, bytes]]:
        wanted = [connection for connection in self._reader.connections if connection.topic in topics]
        if not wanted:
            return
        messages, last = self._reader.messages(connections=wanted), "its begin"
        while True:
            try:
                connection, recorded_ns, data = next(messages)
            except StopIteration:
                return
            except DAMAGED as error:
                raise EpisodeError(
                    f"bag {self.bag} is damaged behind {last}: {type(error).__name__}: {error}"
                ) from error
            last = f"{connection.topic} at {recorded_ns / NS_PER_S:.3f} s"
            yield connection, recorded_ns, data


def require_bag(path: Path) -> None:
    """Raises EpisodeError for what is no bag, with what to give instead."""
    if is_bag(path):
        return
    if not path.exists():
        raise EpisodeError(f"there is no bag {path}")
    files = sorted(file.name for kind in ("*.mcap", "*.db3") for file in path.glob(kind)) if path.is_dir() else []
    remedy = f"give {path / files[0]} itself, or make it with `ros2 bag reindex {path}`" if files else ""
    if path.is_dir():
        raise EpisodeError(f"{path} has no metadata.yaml: " + (remedy or "it is no bag"))
    raise EpisodeError(f"{path} is no bag: expected a folder with metadata.yaml, or one .mcap or .db3 file")
