"""The robot through its own ROS 2 topics (GDK 1.5.x on the robot: Humble, Fast DDS).

    reported   /hal/arm_joint_state                     sensor_msgs/JointState, 14 positions, left then right
               /hal/left_ee_data, /hal/right_ee_data    genie_msgs/EndState, end_state[0].position
               /hal/neck_state                          genie_msgs/HeadState, motor_states yaw, pitch
               /hal/waist_state                         genie_msgs/WaistState, motor_states pitch, lift
    told       /wbc/arm_command, /wbc/head_command, /wbc/waist_command, /wbc/left_ee_command, /wbc/right_ee_command
                                                        sensor_msgs/JointState
    heard      /MotionControlService/SafeStop/request   anything on it is a stop

Names and types are those that public clients of the robot use; genie_msgs comes with the robot and is imported late.
Not checked on a robot: all of this, the order where messages carry no names, and the type of the SafeStop request,
which nobody publishes (the parameter safe_stop_type). The names are the maker's and absolute; a remapping moves them.
"""

import re
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import JointState

from agibot_bringup.bridge.adapter import AdapterError, Hear
from agibot_bringup.bridge.units import Group

# The newest report counts; best effort hears any publisher.
REPORT = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
COMMAND = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
EVENT = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)

ARM_NAMES = [f"{side}_arm_joint{i}" for side in ("left", "right") for i in range(1, 8)]
COMMANDS = {
    Group.ARMS: ("/wbc/arm_command", ARM_NAMES),
    Group.LEFT_GRIPPER: ("/wbc/left_ee_command", []),
    Group.RIGHT_GRIPPER: ("/wbc/right_ee_command", []),
    Group.HEAD: ("/wbc/head_command", []),
    Group.WAIST: ("/wbc/waist_command", []),
}
# group: topic, type, the field with the motors, the motors' names in our order (used where the message names them)
MOTORS = {
    Group.LEFT_GRIPPER: ("/hal/left_ee_data", "genie_msgs/msg/EndState", "end_state", ()),
    Group.RIGHT_GRIPPER: ("/hal/right_ee_data", "genie_msgs/msg/EndState", "end_state", ()),
    Group.HEAD: (
        "/hal/neck_state",
        "genie_msgs/msg/HeadState",
        "motor_states",
        ("joint_head_yaw", "joint_head_pitch"),
    ),
    Group.WAIST: (
        "/hal/waist_state",
        "genie_msgs/msg/WaistState",
        "motor_states",
        ("joint_body_pitch", "joint_lift_body"),
    ),
}
SAFE_STOP = "/MotionControlService/SafeStop/request"


class RobotTopics:
    """See the module's docstring."""

    def __init__(
        self, node: Node, hear: Hear, safe_stop_type: str, on_safe_stop: Callable[[], None], alone: bool = True
    ) -> None:
        """`safe_stop_type` empty: SafeStop is not listened to. `alone`: nobody else may command the robot.

        Raises:
            AdapterError: a message type is not installed, or has other fields than those that are read.
        """
        self._node, self._hear, self._alone = node, hear, alone
        types = {group: message_type(kind) for group, (_, kind, _, _) in MOTORS.items()}
        speeds = {group: _has_speeds(kind, MOTORS[group][2]) for group, kind in types.items()}
        safe_stop = message_type(safe_stop_type) if safe_stop_type else None
        self._subscriptions = [
            node.create_subscription(JointState, "/hal/arm_joint_state", self._on_arms, REPORT),
            *(
                node.create_subscription(types[group], topic, self._motors(group, field, names, speeds[group]), REPORT)
                for group, (topic, _, field, names) in MOTORS.items()
            ),
        ]
        if safe_stop is not None:
            heard = node.create_subscription(safe_stop, SAFE_STOP, lambda _: on_safe_stop(), EVENT)
            self._subscriptions.append(heard)
        self._publishers = {
            group: node.create_publisher(JointState, topic, COMMAND) for group, (topic, _) in COMMANDS.items()
        }

    def objection(self) -> str:
        """Who else commands the robot: another stack, or a tool that was forgotten."""
        if not self._alone:
            return ""
        others: dict[tuple[str, ...], list[str]] = {}
        for publisher in self._publishers.values():
            if names := self._others_on(publisher.topic_name):
                others.setdefault(names, []).append(publisher.topic_name)
        told = [f"{', '.join(names)} publishes on {', '.join(topics)} as well" for names, topics in others.items()]
        return (
            f"{'; '.join(told)}: one alone may command the robot (require_sole_command), end the other" if told else ""
        )

    def poll(self) -> None:
        """Reports come by themselves."""

    def send(self, group: Group, numbers: Sequence[float]) -> None:
        message = JointState(name=COMMANDS[group][1], position=numbers)
        message.header.stamp = self._node.get_clock().now().to_msg()
        self._publishers[group].publish(message)

    def forget(self) -> None:
        """Every group has a message of its own: nothing is kept."""

    def close(self) -> None:
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        for publisher in self._publishers.values():
            self._node.destroy_publisher(publisher)
        self._subscriptions, self._publishers = [], {}

    def _others_on(self, topic: str) -> tuple[str, ...]:
        names = [_full_name(i.node_namespace, i.node_name) for i in self._node.get_publishers_info_by_topic(topic)]
        own = _full_name(self._node.get_namespace(), self._node.get_name())
        if own in names:
            names.remove(own)  # once: a second stack's bridge has the same name
        return tuple(sorted(names))

    def _on_arms(self, message: JointState) -> None:
        order = _order(message.name, ARM_NAMES)
        speeds = _ordered(message.velocity, order) if len(message.velocity) else None
        self._hear(Group.ARMS, _ordered(message.position, order), speeds)

    def _motors(self, group: Group, field: str, names: Sequence[str], speeds: bool) -> Callable[[Any], None]:
        def on_message(message: Any) -> None:
            motors = getattr(message, field)
            if group in (Group.LEFT_GRIPPER, Group.RIGHT_GRIPPER):
                motors = motors[:1]  # a dexterous hand has more; the gripper's motor is the first
            order = _order(getattr(message, "name", ()), names)
            positions = _ordered([motor.position for motor in motors], order)
            velocities = _ordered([motor.velocity for motor in motors], order) if speeds else None
            self._hear(group, positions, velocities)

        return on_message


def message_type(name: str) -> type:
    """The class of a message type such as std_msgs/msg/Empty.

    Raises:
        AdapterError: it is not installed.
    """
    package, _, kind = name.partition("/msg/")
    try:
        return getattr(import_module(f"{package}.msg"), kind)
    except (ImportError, AttributeError, ValueError) as error:
        raise AdapterError(
            f"message type {name} is not installed ({error}): source the robot's own messages, or see "
            "docs/how-to/first-day-with-the-robot.md"
        ) from error


def _has_speeds(kind: type, field: str) -> bool:
    """Whether the motors in a field of a message report a velocity.

    Raises:
        AdapterError: there is no such field, or its entries have no position.
    """
    fields = kind.get_fields_and_field_types()
    motor = re.search(r"(\w+)/(\w+)", fields.get(field, ""))  # sequence<genie_msgs/MotorState>
    motor_fields = message_type("/msg/".join(motor.groups())).get_fields_and_field_types() if motor else {}
    if "position" not in motor_fields:
        raise AdapterError(
            f"{kind.__name__} is read at {field}[].position, and has {fields} with {motor_fields}: source the messages "
            "of the robot's own software, or correct MOTORS in bridge/topics.py"
        )
    return "velocity" in motor_fields


def _full_name(namespace: str, name: str) -> str:
    return f"{namespace.rstrip('/')}/{name}"


def _order(given: Sequence[str], wanted: Sequence[str]) -> list[int] | None:
    """Places of `wanted` among the names of a message; None where the message uses other names, or none."""
    return [list(given).index(name) for name in wanted] if wanted and set(wanted) == set(given) else None


def _ordered(numbers: Sequence[float], order: list[int] | None) -> list[float]:
    """The numbers in our order. One too few or too many is left for the guard to refuse."""
    numbers = list(numbers)
    return numbers if order is None or len(numbers) != len(order) else [numbers[place] for place in order]
