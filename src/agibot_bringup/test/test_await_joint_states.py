"""Over real DDS: the wait ends when every driven joint has been heard, and says what was missing."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
import rclpy
from rclpy.context import Context
from rclpy.node import Node
from sensor_msgs.msg import JointState

from agibot_bringup.description import load_home

pytestmark = pytest.mark.stack

HOME = load_home()
TIMEOUT_S = 90.0


class Waiting:
    """The process, and a node that reports joints to it until it ends."""

    def __init__(self, node: Node, domain: int, timeout_s: float, *, require_listener: bool = False) -> None:
        self._publisher = node.create_publisher(JointState, "robot_joint_states", 10)
        command = [sys.executable, "-m", "agibot_bringup.await_joint_states", "--ros-args"]
        command += [
            "-r",
            "joint_states:=robot_joint_states",
            "-p",
            f"timeout_s:={timeout_s}",
            "-p",
            f"require_listener:={str(require_listener).lower()}",
        ]
        environment = dict(os.environ, ROS_DOMAIN_ID=str(domain), ROS_AUTOMATIC_DISCOVERY_RANGE="LOCALHOST")
        self._process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)

    def interrupt(self) -> None:
        self._process.send_signal(signal.SIGINT)

    def outcome(self, reported: dict[str, float]) -> tuple[int, str]:
        """Exit status and what was said."""
        message = JointState(name=list(reported), position=list(reported.values()))
        until = time.monotonic() + TIMEOUT_S
        try:
            while self._process.poll() is None:
                assert time.monotonic() < until, "it still waits"
                if reported:
                    self._publisher.publish(message)
                time.sleep(0.02)
            return self._process.returncode, self._process.communicate()[1]
        finally:
            self._process.kill()


@pytest.fixture
def ends() -> Iterator[tuple[Node, int]]:
    domain = random.SystemRandom().randint(1, 100)
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    context = Context()
    rclpy.init(context=context, domain_id=domain)
    node = rclpy.create_node("reporter", context=context)
    yield node, domain
    node.destroy_node()
    rclpy.shutdown(context=context)


def test_it_ends_when_every_joint_was_heard(ends: tuple[Node, int]) -> None:
    assert Waiting(*ends, timeout_s=60.0).outcome(HOME | {"another_joint": 0.0}) == (0, "")


def test_a_joint_that_is_nan_or_missing_is_not_heard(ends: tuple[Node, int]) -> None:
    reported = HOME | {"idx11_head_joint1": float("nan")}
    del reported["idx01_body_joint1"]
    status, said = Waiting(*ends, timeout_s=6.0).outcome(reported)
    assert status == 1
    assert said == "await_joint_states: without 2 of 20 joints on /robot_joint_states within 6 s\n"


def test_a_launch_file_that_is_ended_ends_it_quietly(ends: tuple[Node, int]) -> None:
    waiting = Waiting(*ends, timeout_s=60.0)
    while ends[0].count_subscribers("robot_joint_states") == 0:
        time.sleep(0.05)
    waiting.interrupt()
    assert waiting.outcome({}) == (1, "")


def test_the_hardware_must_hear_it_too(ends: tuple[Node, int]) -> None:
    reporter, domain = ends
    recorder = rclpy.create_node("rosbag2_recorder", context=reporter.context)
    recorder.create_subscription(JointState, "robot_joint_states", lambda _: None, 1)  # a recorder is no hardware
    status, said = Waiting(reporter, domain, timeout_s=8.0, require_listener=True).outcome(HOME)
    assert (status, said) == (
        1,
        "await_joint_states: nobody else hears /robot_joint_states within 8 s (recorders do not count): "
        "is ros2_control running?\n",
    )
    reporter.create_subscription(JointState, "robot_joint_states", lambda _: None, 1)
    assert Waiting(reporter, domain, timeout_s=60.0, require_listener=True).outcome(HOME) == (0, "")
    recorder.destroy_node()
