"""What a bag said, as a stream of events in the order of recording: pictures, joint states and commands.

Nothing is kept: events are made when they are asked for, so a bag may be of any length. A message that cannot be read
is an event too, with its topic and its time.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rosbags.interfaces import Connection

from dreamzero_policy.data.bag_errors import DAMAGED
from dreamzero_policy.data.bag_files import Bag
from dreamzero_policy.data.bag_messages import (
    STATES,
    TRAJECTORY,
    camera_topics,
    decoded,
    duration_ns,
    image_decoder,
    required_topic,
    stamp_ns,
    topic_of,
)
from dreamzero_policy.data.commands import CommandHistory
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


class BagEvents:
    """An open bag for one contract."""

    def __init__(self, bag: Bag, contract: Contract) -> None:
        """Find the topics.

        Raises:
            EpisodeError: a camera or the joint states are missing, or a topic is ambiguous or of another type.
        """
        self.bag, self.contract = bag, contract
        site = contract.site
        cameras = camera_topics(bag, contract)
        self._cameras = {connection.topic: camera for camera, connection in cameras.items()}
        self._states = required_topic(bag, site.joint_states.topic, (STATES,), "joint states").topic
        self.topics = {f"camera {camera}": connection.topic for camera, connection in cameras.items()}
        self.topics["joint states"] = self._states  # by the names that the observation buffer calls its sources
        found = {c.name: topic_of(bag, f"{c.name}/joint_trajectory", (TRAJECTORY,)) for c in site.controllers}
        self._controllers = {found[c.name].topic: c for c in site.controllers if found[c.name] is not None}
        self.command_connections = [connection for connection in found.values() if connection is not None]
        self.without_commands = tuple(name for name, connection in found.items() if connection is None)

    @property
    def has_commands(self) -> bool:
        """Whether there is a topic of every controller."""
        return not self.without_commands

    @property
    def begin_ns(self) -> int:
        """When the first message was recorded."""
        return self.bag.begin_ns

    @property
    def seconds(self) -> float:
        """From the first message to the last."""
        return max(0, self.bag.end_ns - self.bag.begin_ns) / NS_PER_S

    def events(self) -> Iterator[Event]:
        """All that the node hears. Raises EpisodeError where the bag cannot be read further and must be."""
        for connection, recorded_ns, data in self.bag.messages({*self._cameras, self._states, *self._controllers}):
            try:
                event = self._event(connection, recorded_ns, data)
            except DAMAGED as error:
                event = Unreadable(connection.topic, recorded_ns, f"{type(error).__name__}: {error}")
            yield event

    def _event(self, connection: Connection, recorded_ns: int, data: bytes) -> Event:
        topic, types = connection.topic, self.bag.typestore
        if camera := self._cameras.get(topic):
            decode = image_decoder(camera, data, connection.msgtype, types)
            return Picture(topic, recorded_ns, stamp_ns(data), camera, decode)
        if controller := self._controllers.get(topic):
            return Trajectory(topic, recorded_ns, controller, decoded(data, TRAJECTORY, types))
        message = decoded(data, STATES, types)
        return Joints(topic, recorded_ns, stamp_ns(data), message.name, message.position)


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
