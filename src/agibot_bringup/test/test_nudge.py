"""Over real DDS: a nudge tells a joint that does as it is told from one that is reversed, scaled, swapped or still."""

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from agibot_bringup.description import load_controllers, load_home
from agibot_bringup.nudge import there_and_back
from agibot_bringup.safety_gate import reports
from agibot_bringup.safety_gate.messages import received
from agibot_bringup.safety_gate.node import LATCHED
from dreamzero_policy.runtime.contract import Contract, load_contract

from .safety_gate.scene import Scene

pytestmark = pytest.mark.stack

YAW, PITCH = load_controllers()["head_controller"]
HOME = load_home()
TIMEOUT_S = 90.0


class Head:
    """A head that follows trajectories as `does` makes of them: offsets [yaw, pitch] → offsets."""

    def __init__(self, does: Callable[[np.ndarray], np.ndarray]) -> None:
        self._does = does
        self.domain = random.SystemRandom().randint(1, 100)
        os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
        self.context = Context()
        rclpy.init(context=self.context, domain_id=self.domain)
        self.node = rclpy.create_node("head", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self._states = self.node.create_publisher(JointState, "joint_states", 10)
        topic = "wanted/joint_trajectory"
        self.node.create_subscription(JointTrajectory, topic, self._follow, 1)
        self.node.create_timer(0.02, self._report)
        self._gate = self.node.create_publisher(String, "safety_gate/status", LATCHED)
        self.received: list[JointTrajectory] = []

    def _follow(self, message: JointTrajectory) -> None:
        self.received.append(message)
        self._begun_s = time.monotonic()
        self._times_s = [p.time_from_start.sec + p.time_from_start.nanosec * 1e-9 for p in message.points]
        self._points = np.array([p.positions for p in message.points])

    def _report(self) -> None:
        pose = dict(HOME)
        if self.received:
            passed_s = time.monotonic() - self._begun_s
            told = np.array([np.interp(passed_s, self._times_s, self._points[:, i]) for i in range(2)])
            home = np.array([HOME[YAW], HOME[PITCH]])
            pose |= dict(zip((YAW, PITCH), (home + self._does(told - home)).tolist(), strict=True))
        self._states.publish(JointState(name=list(pose), position=list(pose.values())))

    def gate_says(self, line: str) -> None:
        """Once, as the gate does it: who comes later hears it too."""
        self._gate.publish(String(data=line))

    def nudged(self, *arguments: str) -> tuple[int, str]:
        """Exit status of the tool, and what it said."""
        environment = dict(os.environ, ROS_DOMAIN_ID=str(self.domain))
        command = [sys.executable, "-m", "agibot_bringup.nudge", *arguments]
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        until = time.monotonic() + TIMEOUT_S
        try:
            while process.poll() is None:
                assert time.monotonic() < until, "it does not end"
                self.executor.spin_once(timeout_sec=0.02)
            return process.returncode, process.communicate()[0]
        finally:
            process.kill()


@pytest.fixture(scope="module")
def contract() -> Contract:
    return load_contract(Path(__file__).parents[3] / "config" / "agibot_g1.yaml")


@pytest.fixture
def head() -> Iterator[Callable[..., Head]]:
    made: list[Head] = []

    def make(does: Callable[[np.ndarray], np.ndarray]) -> Head:
        made.append(Head(does))
        return made[-1]

    yield make
    for one in made:
        one.executor.shutdown()
        one.node.destroy_node()
        rclpy.shutdown(context=one.context)


def test_a_joint_that_does_as_it_is_told_passes(head: Callable[..., Head]) -> None:
    robot = head(lambda offsets: offsets)
    status, said = robot.nudged(YAW, "0.05")
    assert status == 0 and said.startswith(f"{YAW} was told +0.0500 and went +0.0"), said
    (message,) = robot.received
    assert message.joint_names == [YAW, PITCH] and message.header.stamp.sec == 0
    assert not any(message.points[-1].velocities) and list(message.points[-1].positions) == [HOME[YAW], HOME[PITCH]]


@pytest.mark.parametrize(
    ("does", "reason"),
    [
        (lambda offsets: -offsets, "THE WRONG WAY"),
        (lambda offsets: offsets * 0.5, "look at the unit"),
        (lambda offsets: offsets[::-1], "did not move"),
        (lambda offsets: offsets + offsets[::-1], f"others moved along: {PITCH}"),
        (lambda offsets: offsets * 0, "did not move"),
    ],
    ids=["reversed", "scaled", "swapped", "coupled", "still"],
)
def test_a_joint_that_does_something_else_is_told(
    head: Callable[..., Head], does: Callable[[np.ndarray], np.ndarray], reason: str
) -> None:
    status, said = head(does).nudged(YAW, "0.05")
    assert status == 1 and reason in said, said


@pytest.mark.parametrize(
    ("joint", "amount"),
    [(YAW, 0.05), ("idx27_arm_l_joint7", 0.05), ("idx02_body_joint2", 0.02), ("idx01_body_joint1", 0.01)],
)
def test_the_gate_lets_a_nudge_through(contract: Contract, joint: str, amount: float) -> None:
    scene = Scene(contract)
    scene.pass_time(0.1)
    assert scene.open() == ""
    controller = next(controller for controller in contract.site.controllers if joint in controller.joints)
    start = dict(zip(controller.joints, scene.positions(controller.name).tolist(), strict=True))
    assert scene.take(received(there_and_back(controller.joints, start, joint, amount))) is None
    column, farthest = controller.joints.index(joint), 0.0
    for _ in range(50):
        scene.pass_time(0.1)
        farthest = max(farthest, scene.positions(controller.name)[column] - start[joint])
    assert farthest == pytest.approx(amount, rel=0.02)  # engaging blends in the beginning alone


def test_what_the_gate_rejected_is_told_with_its_reason(contract: Contract, head: Callable[..., Head]) -> None:
    scene = Scene(contract)
    scene.pass_time(0.1)
    assert scene.open() == ""
    start = dict(zip((YAW, PITCH), scene.positions("head_controller").tolist(), strict=True))
    to_limit = contract.site.limits[PITCH].upper - start[PITCH]
    assert scene.take(received(there_and_back((YAW, PITCH), start, PITCH, to_limit + 0.05))) is not None
    robot = head(lambda offsets: offsets * 0)
    robot.gate_says("open: trajectories pass")
    robot.gate_says(line := reports.status_line(scene.gate, scene.ns))
    status, said = robot.nudged(PITCH, "0.05")
    assert status == 1 and f"did not move. /safety_gate/status says: {line}. Is the bridge active?" in said, said
    assert line.startswith("open: the last trajectory was rejected, 3 position:")


def test_a_gate_that_closes_on_the_way_is_told(head: Callable[..., Head]) -> None:
    robot = head(lambda offsets: offsets * 0.5)
    robot.gate_says("closed: deadman: button 4 of joy is released")
    status, said = robot.nudged(YAW, "0.05")
    assert status == 1 and "not that far" in said and "closed: deadman: button 4 of joy is released" in said, said


def test_where_no_gate_is_heard_that_is_told(head: Callable[..., Head]) -> None:
    status, said = head(lambda offsets: offsets * 0).nudged(YAW, "0.05")
    assert status == 1 and "Nothing is heard on /safety_gate/status" in said, said


def test_more_than_a_nudge_is_refused(head: Callable[..., Head]) -> None:
    status, said = head(lambda offsets: offsets).nudged(YAW, "0.5")
    assert status == 2 and "amount is 0.5, expected up to 0.2" in said
