"""A robot on its own topics, and the ros2_control that drives it: both ends of the bridge, in one node of the test.

The robot goes where a set point says at once, reports 100 times a second, and refuses what the firmware refuses: a step
of more than 0.2618 rad from where it is, a vector of another length, a number that is none. What it refused is kept.
Faults: groups that fall silent, numbers that replace a report.
"""

import math
from collections.abc import Callable, Sequence
from importlib import import_module

from rclpy.node import Node
from rclpy.qos import QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import JointState

from agibot_bringup.bridge.topics import ARM_NAMES, COMMANDS, MOTORS
from agibot_bringup.bridge.units import GRIPPER, JOINTS, LEFT_GRIPPER, RIGHT_GRIPPER, Group, Table

FIRMWARE_STEP_RAD = 0.2618
PERIOD_S = 0.01
# rad and m; well inside every range, and the lift in no unit but m
HOME = {joint: 0.1 for joint in JOINTS} | {
    LEFT_GRIPPER: 0.6,
    RIGHT_GRIPPER: 0.6,
    "idx01_body_joint1": 0.41,
    "idx02_body_joint2": 0.3,
}


class FakeRobot:
    """See the module's docstring. `table` is what the robot really does, whatever the bridge believes."""

    def __init__(self, node: Node, table: Table) -> None:
        self._node, self._table = node, table
        types = import_module("genie_msgs.msg")
        self._types = {group: getattr(types, kind.rpartition("/")[2]) for group, (_, kind, _, _) in MOTORS.items()}
        self._motor = types.MotorState
        self._arms = node.create_publisher(JointState, "/hal/arm_joint_state", 10)
        self._motors = {
            group: node.create_publisher(self._types[group], topic, 10) for group, (topic, _, _, _) in MOTORS.items()
        }
        for group, (topic, _) in COMMANDS.items():
            node.create_subscription(JointState, topic, self._taker(group), 10)
        self.commands = node.create_publisher(JointState, "robot_joint_commands", QoSProfile(depth=1))
        self.states: list[JointState] = []
        node.create_subscription(JointState, "robot_joint_states", self.states.append, qos_profile_sensor_data)
        self.again()
        node.create_timer(PERIOD_S, self._cycle)

    def again(self) -> None:
        """At home, without faults, and nothing asked yet."""
        self.raw = {g: [e.feedback.raw(HOME[e.joint]) for e in entries] for g, entries in self._table.items()}
        self.silent: set[Group] = set()
        self.replaced: dict[Group, list[float]] = {}
        self.commanding: dict[str, float] | None = None  # what ros2_control commands now; None: it is silent
        self.told: list[tuple[Group, list[float], list[str]]] = []
        self.refused: list[str] = []
        self.states.clear()

    @property
    def connected(self) -> bool:
        """Both ends see the bridge."""
        return (
            self._arms.get_subscription_count() == 1
            and self.commands.get_subscription_count() == 1
            and all(self._node.count_publishers(topic) == 1 for topic, _ in COMMANDS.values())
        )

    def heard(self) -> dict[str, float]:
        """What ros2_control was last told: joint → rad or m."""
        return dict(zip(self.states[-1].name, self.states[-1].position, strict=True))

    def positions(self, group: Group) -> list[float]:
        """Where it is, rad and m."""
        return [e.feedback.value(number) for e, number in zip(self._table[group], self.raw[group], strict=True)]

    def told_to(self, group: Group) -> list[list[float]]:
        return [numbers for sent, numbers, _ in self.told if sent is group]

    def _cycle(self) -> None:
        for group in Group:
            if group in self.silent:
                continue
            numbers = self.replaced.get(group, self.raw[group])
            if group is Group.ARMS:
                self._arms.publish(JointState(name=ARM_NAMES, position=numbers, velocity=[0.0] * len(numbers)))
                continue
            _, _, field, names = MOTORS[group]
            message = self._types[group](**{field: [self._motor(position=number) for number in numbers]})
            if names:  # reversed, since a name counts and not a place
                message.name = list(reversed(names))
                setattr(message, field, list(reversed(getattr(message, field))))
            self._motors[group].publish(message)
        if self.commanding is not None:
            told = HOME | self.commanding
            self.commands.publish(JointState(name=list(told), position=list(told.values())))

    def _taker(self, group: Group) -> Callable[[JointState], None]:
        return lambda message: self._take(group, list(message.position), list(message.name))

    def _take(self, group: Group, numbers: Sequence[float], names: list[str]) -> None:
        self.told.append((group, list(numbers), names))
        entries = self._table[group]
        if len(numbers) != len(entries) or not all(map(math.isfinite, numbers)):
            self.refused.append(f"{group.value}: {numbers}")
            return
        values = [entry.command.value(number) for entry, number in zip(entries, numbers, strict=True)]
        for entry, value, present in zip(entries, values, self.positions(group), strict=True):
            if entry.command.unit != GRIPPER and abs(value - present) > FIRMWARE_STEP_RAD:
                self.refused.append(f"{entry.joint}: step of {abs(value - present):.4f}")
                return
        self.raw[group] = [entry.feedback.raw(value) for entry, value in zip(entries, values, strict=True)]
