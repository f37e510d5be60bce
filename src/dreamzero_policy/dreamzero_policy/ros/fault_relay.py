"""A relay between a robot and a policy that hands messages on as they are, or damages them as it is told.

The robot (the twin) publishes under a namespace of its own, the policy hears and speaks on the ordinary topics; every
image, joint state, clock message and trajectory passes through here as bytes. Nothing of either side knows of it.
Simulated time can be set forwards and backwards: clock and stamps are shifted together, as by a bag that begins again.
"""

import random
import struct
from collections import deque
from collections.abc import Callable
from functools import partial

from builtin_interfaces.msg import Time
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.serialization import deserialize_message, serialize_message
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, JointState
from trajectory_msgs.msg import JointTrajectory

from dreamzero_policy.ros import qos
from dreamzero_policy.ros.messages import to_ns
from dreamzero_policy.runtime.contract import Contract
from dreamzero_policy.runtime.observation import NS_PER_S

SENSOR = QoSProfile(depth=60, reliability=qos.EVENT.reliability)
STAMP = slice(4, 12)  # of a serialized message that begins with a stamp: seconds and nanoseconds behind four bytes
BEGIN_NS = 100_000 * NS_PER_S  # added to simulated time, so that it can be set back


class Passage:
    """One topic on its way through, and what is done to it."""

    def __init__(self, publish: Callable[[bytes], None]) -> None:
        self._publish = publish
        self._held: bytes | None = None
        self._delayed: deque[tuple[int, bytes]] = deque()
        self._newest = b""
        self.heal()

    def heal(self) -> None:
        """Hand messages on as they are."""
        self.silent = self.twice = self.swapped = False
        self.lost_share = self.delay_s = 0.0
        self._frozen: bytes | None = None
        self.damage: Callable[[bytes], bytes] | None = None

    def freeze(self) -> None:
        """Show the newest message again and again, with new stamps."""
        self._frozen = self._newest

    def hand_on(self, data: bytes, now_ns: int, offset_ns: int) -> None:
        """A message of the source; `now_ns` is the source's time, `offset_ns` shifts the stamp."""
        self._newest = data
        if self._frozen is not None:
            data = self._frozen[: STAMP.start] + data[STAMP] + self._frozen[STAMP.stop :]
        if self.damage is not None:
            data = self.damage(data)
        self._delayed.append((now_ns + round(self.delay_s * NS_PER_S), shifted(data, offset_ns)))
        while self._delayed and self._delayed[0][0] <= now_ns:
            self._send(self._delayed.popleft()[1])

    def _send(self, data: bytes) -> None:
        if self.silent or random.random() < self.lost_share:
            return
        if self.swapped and self._held is None:
            self._held = data
            return
        self._publish(data)
        if self.twice:
            self._publish(data)
        if self._held is not None:
            self._publish(self._held)
            self._held = None


class FaultRelay(Node):
    """All topics between a robot in namespace `source` and a policy."""

    def __init__(
        self,
        contract: Contract,
        source: str,
        on_trajectory: Callable[[str, JointTrajectory], None],
        on_clock: Callable[[], None],
    ) -> None:
        super().__init__("fault_relay")
        self._source, self._on_trajectory, self._on_clock = source, on_trajectory, on_clock
        self.contract = contract
        self.now_ns = 0  # the source's own time, which never jumps
        self.offset_ns = BEGIN_NS
        self.positions: dict[str, float] = {}  # the first measured ones
        self.cameras = {
            camera: self._pass(CompressedImage, f"{site.topic}/compressed")
            for camera, site in contract.site.cameras.items()
        }
        self.joints = self._pass(JointState, contract.site.joint_states.topic)
        self._clock = self.create_publisher(Clock, "/clock", qos.EVENT)
        self.create_subscription(Clock, f"{source}/clock", self._on_source_clock, SENSOR)
        self.create_subscription(JointState, f"{source}/{contract.site.joint_states.topic}", self._on_joints, 1)
        self._to_robot = {
            controller.name: self.create_publisher(
                JointTrajectory, f"{source}/{controller.name}/joint_trajectory", qos.TRAJECTORY
            )
            for controller in contract.site.controllers
        }
        self._from_policy = {name: self._hear(name) for name in self._to_robot}

    def lose_controller(self, name: str) -> None:
        """Nobody listens on its topic any more."""
        self.destroy_subscription(self._from_policy.pop(name))

    def heal(self) -> None:
        """Hand everything on as it is. Time stays where it was set."""
        for passage in (*self.cameras.values(), self.joints):
            passage.heal()
        for name in self._to_robot.keys() - self._from_policy.keys():
            self._from_policy[name] = self._hear(name)

    def _pass(self, kind: type, topic: str) -> Passage:
        publisher = self.create_publisher(kind, topic, qos.EVENT)
        passage = Passage(publisher.publish)
        self.create_subscription(
            kind,
            f"{self._source}/{topic}",
            lambda data: passage.hand_on(data, self.now_ns, self.offset_ns),
            SENSOR,
            raw=True,
        )
        return passage

    def _hear(self, name: str):
        return self.create_subscription(
            JointTrajectory, f"{name}/joint_trajectory", partial(self._on_command, name), qos.TRAJECTORY
        )

    def _on_command(self, name: str, message: JointTrajectory) -> None:
        self._to_robot[name].publish(message)
        self._on_trajectory(name, message)

    def _on_source_clock(self, message: Clock) -> None:
        self.now_ns = to_ns(message.clock)
        shifted_ns = self.now_ns + self.offset_ns
        self._clock.publish(Clock(clock=Time(sec=shifted_ns // NS_PER_S, nanosec=shifted_ns % NS_PER_S)))
        self._on_clock()

    def _on_joints(self, message: JointState) -> None:
        if not self.positions:
            self.positions = dict(zip(message.name, message.position, strict=True))


def shifted(data: bytes, offset_ns: int) -> bytes:
    """A serialized message that begins with a stamp, stamped later by the offset."""
    seconds, nanoseconds = struct.unpack("<iI", data[STAMP])
    stamp_ns = seconds * NS_PER_S + nanoseconds + offset_ns
    return data[: STAMP.start] + struct.pack("<iI", stamp_ns // NS_PER_S, stamp_ns % NS_PER_S) + data[STAMP.stop :]


def without_numbers(data: bytes) -> bytes:
    """A joint state whose positions are not numbers."""
    message = deserialize_message(data, JointState)
    message.position = [float("nan")] * len(message.name)
    return serialize_message(message)


def truncated(data: bytes) -> bytes:
    """A compressed image that ends in the middle."""
    message = deserialize_message(data, CompressedImage)
    message.data = message.data[: len(message.data) // 20]
    return serialize_message(message)
