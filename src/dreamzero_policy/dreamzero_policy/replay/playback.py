"""A bag as something to be played: what a policy hears, message by message and byte for byte, from any instant on.

Topics are found as for any other replay (`data/bag_messages.py`): those of the contract, in whatever namespace they
were recorded. They are played under the contract's own, relative names, so that a namespace keeps them apart from a
robot that is there too.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dreamzero_policy.data.bag_files import OpenBag
from dreamzero_policy.data.bag_messages import STATES, camera_topics, required_topic, stamp_ns
from dreamzero_policy.data.episodes import EpisodeError
from dreamzero_policy.replay.recording import require_bag
from dreamzero_policy.runtime.contract import Contract
from dreamzero_policy.runtime.observation import NS_PER_S

CLOCK_HZ = 100


@dataclass(frozen=True)
class Source:
    """A topic to play."""

    recorded: str  # its name in the bag
    name: str  # relative
    kind: str  # for example sensor_msgs/msg/JointState


@dataclass(frozen=True)
class Message:
    """A message and when it is played, on the clock of the stamps."""

    instant_ns: int
    source: Source
    data: bytes


class Playback:
    """A context in which a bag is open."""

    def __init__(self, bag: Path, contract: Contract) -> None:
        """Raises EpisodeError for what is no bag."""
        require_bag(bag)
        self.bag, self.contract = bag, contract
        self._open = OpenBag(bag)

    def __enter__(self) -> "Playback":
        """Raises EpisodeError for a bag that cannot be read, or lacks a camera or the joint states."""
        self._reader = self._open.__enter__()
        try:
            self.sources = self._find()
            self._skew_ns = self._measured_skew_ns()
        except BaseException:
            self._open.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        self._open.__exit__(kind, error, trace)

    @property
    def begin_ns(self) -> int:
        return self._reader.begin_ns - self._skew_ns

    @property
    def end_ns(self) -> int:
        return self._reader.end_ns - self._skew_ns

    def messages(self, from_ns: int) -> Iterator[Message]:
        """In the order of recording. Raises EpisodeError where the file cannot be read further."""
        by_topic = {source.recorded: source for source in self.sources}
        begin_ns = from_ns + self._skew_ns
        for connection, recorded_ns, data in self._reader.messages(by_topic, from_ns=begin_ns):
            yield Message(recorded_ns - self._skew_ns, by_topic[connection.topic], bytes(data))

    def _find(self) -> tuple[Source, ...]:
        states = self.contract.site.joint_states.topic
        found = [(required_topic(self._reader, states, (STATES,), "joint states"), states)]
        for camera, connection in camera_topics(self._reader, self.contract).items():
            topic = self.contract.site.cameras[camera].topic
            found.append((connection, topic + ("/compressed" if connection.topic.endswith("/compressed") else "")))
        return tuple(Source(connection.topic, name.lstrip("/"), connection.msgtype) for connection, name in found)

    def _measured_skew_ns(self) -> int:
        """Time of recording minus stamps, where they are of two clocks (a simulated one and the recorder's)."""
        first = next(self._reader.messages({self.sources[0].recorded}), None)
        if first is None:
            raise EpisodeError(f"joint states: no message in {self.bag}")
        _, recorded_ns, data = first
        skew_ns = recorded_ns - stamp_ns(data)
        return skew_ns if abs(skew_ns) > self.contract.site.tolerances.silence_s * NS_PER_S else 0


def play_command(
    bag: Path, sources: Sequence[Source], namespace: str, *, rate: float, loop: bool, start_s: float
) -> list[str]:
    """The same by `ros2 bag play`: its own clock, names and topics as above. `namespace` begins and ends with /."""
    moved = [f"{source.recorded}:={namespace}{source.name}" for source in sources] + [f"/clock:={namespace}clock"]
    return [
        *("ros2", "bag", "play", str(bag), "--rate", f"{rate:g}", "--clock", str(CLOCK_HZ)),
        *("--start-offset", f"{start_s:g}", *(["--loop"] if loop else [])),
        *("--topics", *(source.recorded for source in sources), "--remap", *moved),
    ]
