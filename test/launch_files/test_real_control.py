"""On a real installation: `ros2 launch` brings mock hardware and its controllers up, and a joint moves.

Skipped where ros2_control is not installed, as in this repository's own environment.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import rclpy
from ament_index_python.packages import PackageNotFoundError, get_package_prefix
from builtin_interfaces.msg import Duration
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from agibot_bringup.description import load_controllers, load_home

NEEDED = ("agibot_bringup", "controller_manager", "joint_state_broadcaster", "joint_trajectory_controller", "xacro")
TIMEOUT_S = 120.0


def installed() -> bool:
    try:
        return shutil.which("ros2") is not None and all(get_package_prefix(package) for package in NEEDED)
    except PackageNotFoundError:
        return False


pytestmark = [pytest.mark.stack, pytest.mark.skipif(not installed(), reason="needs ros2 launch and ros2_control")]


class Robot:
    """The launch file's processes, and a node that looks at them."""

    def __init__(self, namespace: str) -> None:
        domain = random.SystemRandom().randint(1, 100)
        environment = dict(os.environ, ROS_DOMAIN_ID=str(domain), ROS_AUTOMATIC_DISCOVERY_RANGE="LOCALHOST")
        command = ["ros2", "launch", "agibot_bringup", "control.launch.py", "hardware:=mock"]
        command += [f"namespace:={namespace}"] if namespace else []
        self.process = subprocess.Popen(command, env=environment, start_new_session=True)
        self.context = Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.node = rclpy.create_node("looker", context=self.context, namespace=namespace)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.joints: dict[str, float] = {}
        self.node.create_subscription(JointState, "joint_states", self._hear, qos_profile_sensor_data)
        self.head = self.node.create_publisher(JointTrajectory, "head_controller/joint_trajectory", 1)

    def _hear(self, message: JointState) -> None:
        self.joints |= dict(zip(message.name, message.position, strict=True))

    def spin_until(self, condition: Callable[[], bool]) -> None:
        until = time.monotonic() + TIMEOUT_S
        while not condition():
            assert self.process.poll() is None, "ros2 launch has ended"
            assert time.monotonic() < until, "timed out"
            self.executor.spin_once(timeout_sec=0.1)

    def close(self) -> None:
        try:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(timeout=30.0)
        finally:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
            self.executor.shutdown()
            self.node.destroy_node()
            rclpy.shutdown(context=self.context)


@pytest.fixture
def start() -> Iterator[Callable[[str], Robot]]:
    running: list[Robot] = []

    def make(namespace: str) -> Robot:
        running.append(Robot(namespace))
        return running[-1]

    yield make
    for robot in running:
        robot.close()


@pytest.mark.parametrize("namespace", ["", "left_lab"])
def test_controllers_come_up_at_home_and_a_joint_moves(start: Callable[[str], Robot], namespace: str) -> None:
    robot = start(namespace)
    robot.spin_until(lambda: set(load_home()) <= set(robot.joints) and robot.head.get_subscription_count() == 1)
    assert robot.joints == pytest.approx(load_home(), abs=1e-6)
    yaw, pitch = load_controllers()["head_controller"]
    target = {yaw: 0.2, pitch: 0.3}
    point = JointTrajectoryPoint(positions=list(target.values()), velocities=[0.0, 0.0])
    point.time_from_start = Duration(sec=1)
    robot.head.publish(JointTrajectory(joint_names=list(target), points=[point]))
    robot.spin_until(lambda: all(abs(robot.joints[joint] - value) < 2e-3 for joint, value in target.items()))
    moved = {joint for joint, value in load_home().items() if abs(robot.joints[joint] - value) > 1e-3}
    assert moved == {yaw, pitch}


@pytest.mark.timeout(600)
@pytest.mark.skipif(find_spec("launch_testing") is None, reason="needs launch_testing")
def test_the_policy_executes_ten_chunks_on_controllers_that_became_active() -> None:
    environment = dict(
        os.environ,
        ROS_DOMAIN_ID=str(random.SystemRandom().randint(1, 100)),
        ROS_AUTOMATIC_DISCOVERY_RANGE="LOCALHOST",
    )
    file = Path(__file__).with_name("launch_policy_on_controllers.py")
    command = [sys.executable, "-m", "launch_testing.launch_test", str(file), "hardware:=mock"]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-5000:]
