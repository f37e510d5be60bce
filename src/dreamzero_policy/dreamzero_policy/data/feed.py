"""The feed: messages of a bag into the observation buffer, in the order of recording and as far as somebody asks.

It does what the node's callbacks do: a stamp that is not newer than the last one is left out, a joint state that cannot
be used is refused, a picture is decoded when it is needed. What the node counts, the feed names.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from dreamzero_policy.data.bag_events import Event, Joints, Picture, Trajectory, Unreadable
from dreamzero_policy.data.episodes import EpisodeError
from dreamzero_policy.data.problems import Problems
from dreamzero_policy.runtime.observation import HISTORY_S, NS_PER_S, ObservationBuffer, ObservationError


class Motion(Protocol):
    """Who wants to know what the robot was told and did."""

    def add_state(self, stamp_ns: int, recorded_ns: int, positions: Mapping[str, float]) -> None:
        """Where the robot was."""

    def add_trajectory(self, event: Trajectory) -> None:
        """What a controller was sent. Raises EpisodeError for what no controller could follow."""


class Feed:
    """Fills a buffer, and tells of the motion."""

    def __init__(self, events: Iterator[Event], buffer: ObservationBuffer, motion: Motion, problems: Problems) -> None:
        self._events, self._buffer, self._motion, self._problems = events, buffer, motion, problems
        self.fed_ns = 0  # when the newest message was recorded
        self.ended = False  # there is nothing more in the bag
        self.restarted_ns: int | None = None  # the clock of the recording was set back to here, and nobody knows yet
        self.first_ns = 0  # stamp of the first message
        self._newest_ns = 0
        self._known_good = False  # a joint state of this robot was heard

    def until(self, reached: Callable[[], bool]) -> bool:
        """Feed until this is so; false if the bag ends before, or its clock is set back."""
        while not reached():
            if self.restarted_ns is not None or not self.one():
                return False
        return True

    def one(self) -> bool:
        """Feed a message; false at the end of the bag. Raises EpisodeError for a bag of another robot."""
        event = next(self._events, None)
        if event is None:
            self.ended = True
            return False
        self.fed_ns = event.recorded_ns
        if isinstance(event, Unreadable):
            self._problems.note("damage", event.topic, event.recorded_ns, f"cannot be read: {event.reason}")
        elif isinstance(event, Trajectory):
            self._add_trajectory(event)
        else:
            self._watch_clock(event)
            if isinstance(event, Picture):
                self._warn_of_stamp(event, self._buffer.cameras[event.camera].items)
                self._buffer.add_image(event.camera, event.stamp_ns, event.recorded_ns, event.decode)
            else:
                self._warn_of_stamp(event, self._buffer.joints.items)
                self._add_joints(event)
        return True

    def _add_joints(self, event: Joints) -> None:
        try:
            self._buffer.add_joint_state(event.stamp_ns, event.recorded_ns, event.names, event.positions)
        except ObservationError as error:
            if not self._known_good:
                raise EpisodeError(
                    f"{event.topic} at {event.stamp_ns / NS_PER_S:.3f} s: {error} Is this a bag of another robot?"
                ) from error
            self._problems.note("damage", event.topic, event.stamp_ns, str(error))
            return
        self._known_good = True
        newest = self._buffer.joints.items[-1]
        if newest.stamp_ns == event.stamp_ns:
            self._motion.add_state(event.stamp_ns, event.recorded_ns, newest.positions)

    def _add_trajectory(self, event: Trajectory) -> None:
        try:
            self._motion.add_trajectory(event)
        except EpisodeError as error:
            self._problems.note("damage", event.topic, event.recorded_ns, str(error))

    def _watch_clock(self, event: Picture | Joints) -> None:
        if event.stamp_ns < self._newest_ns - HISTORY_S * NS_PER_S:
            self._newest_ns = self.restarted_ns = event.stamp_ns
        self.first_ns = self.first_ns or event.stamp_ns
        self._newest_ns = max(self._newest_ns, event.stamp_ns)

    def _warn_of_stamp(self, event: Picture | Joints, items) -> None:
        if items and event.stamp_ns < items[-1].stamp_ns:
            newest_s, this_s = items[-1].stamp_ns / NS_PER_S, event.stamp_ns / NS_PER_S
            text = f"stamps do not increase, {newest_s:.6f} s is followed by {this_s:.6f} s"
            self._problems.note("damage", event.topic, event.stamp_ns, text)
