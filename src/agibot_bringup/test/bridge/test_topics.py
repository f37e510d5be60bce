"""The robot's own messages are looked at when the adapter is made: nothing that they lack ends the process later."""

import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor

from agibot_bringup.bridge.adapter import AdapterError
from agibot_bringup.bridge.topics import MOTORS, RobotTopics
from agibot_bringup.bridge.units import Group

from .. import built_messages

pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]  # the first test builds the robot's messages

TOPIC = "/hal/left_ee_data"


@pytest.fixture
def executor(monkeypatch: pytest.MonkeyPatch) -> Iterator[SingleThreadedExecutor]:
    """With a node of its own, whose messages stay in this process."""
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    built_messages.use(built_messages.installed(Path(__file__).parent / "genie_msgs"))
    context = Context()
    rclpy.init(context=context, domain_id=77)
    executor = SingleThreadedExecutor(context=context)
    node = rclpy.create_node("robot", context=context)
    executor.add_node(node)
    yield executor
    executor.shutdown()
    node.destroy_node()
    rclpy.shutdown(context=context)


def test_motors_that_report_no_speed_are_heard_without_one(
    executor: SingleThreadedExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MOTORS, Group.LEFT_GRIPPER, (TOPIC, "genie_msgs/msg/EndPosition", "end_state", ()))
    messages, heard = import_module("genie_msgs.msg"), []
    (node,) = executor.get_nodes()
    adapter = RobotTopics(node, lambda *report: heard.append(report), "", lambda: None)
    publisher = node.create_publisher(messages.EndPosition, TOPIC, 10)
    until = time.monotonic() + 30
    while not heard and time.monotonic() < until:
        publisher.publish(messages.EndPosition(end_state=[messages.MotorPosition(position=77.5)]))
        executor.spin_once(timeout_sec=0.1)
    assert heard[0] == (Group.LEFT_GRIPPER, [77.5], None)
    adapter.close()


@pytest.mark.parametrize(
    ("kind", "field"), [("genie_msgs/msg/EndState", "motors"), ("sensor_msgs/msg/JointState", "position")]
)
def test_messages_with_other_fields_are_refused_when_the_adapter_is_made(
    executor: SingleThreadedExecutor, monkeypatch: pytest.MonkeyPatch, kind: str, field: str
) -> None:
    monkeypatch.setitem(MOTORS, Group.LEFT_GRIPPER, (TOPIC, kind, field, ()))
    (node,) = executor.get_nodes()
    with pytest.raises(AdapterError, match=rf"is read at {field}\[\].position, and has .*source the messages"):
        RobotTopics(node, lambda *_: None, "", lambda: None)
