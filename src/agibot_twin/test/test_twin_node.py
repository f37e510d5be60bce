"""Over real DDS, the twin's process shows the interface of the robot."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import cv2
import numpy as np
import pytest
import rclpy
from builtin_interfaces.msg import Duration
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, JointState
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from agibot_twin.episodes import sample_episode
from agibot_twin.robot_model import DRIVEN_JOINTS

pytestmark = pytest.mark.stack

CAMERAS = ("head", "hand_left", "hand_right")
RELIABLE = QoSProfile(depth=50, reliability=ReliabilityPolicy.RELIABLE)
START_TIMEOUT_S = 60.0


class Twin:
    """The twin's process and a node that talks to it."""

    def __init__(self, *parameters: str) -> None:
        self.domain = random.randint(1, 100)
        environment = dict(
            os.environ, ROS_DOMAIN_ID=str(self.domain), ROS_AUTOMATIC_DISCOVERY_RANGE="LOCALHOST", OMP_NUM_THREADS="1"
        )
        arguments = [item for parameter in parameters for item in ("-p", parameter)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "agibot_twin.twin_node", "--ros-args", *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
        self.context = Context()
        rclpy.init(context=self.context, domain_id=self.domain)
        self.node = rclpy.create_node("test_client", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)

    def collect(self, kind: type, topic: str, qos: QoSProfile = qos_profile_sensor_data) -> list:
        received: list = []
        self.node.create_subscription(kind, topic, received.append, qos)
        return received

    def spin_until(self, condition: Callable[[], bool], timeout_s: float = START_TIMEOUT_S) -> None:
        until = time.monotonic() + timeout_s
        while not condition():
            assert self.process.poll() is None, f"the twin ended: {self.process.stdout.read()}"
            assert time.monotonic() < until, "timed out"
            self.executor.spin_once(timeout_sec=0.1)

    def spin(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.executor.spin_once(timeout_sec=0.02)

    def stop(self, number: int = signal.SIGINT) -> str:
        """End the process by a signal; its whole output."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        output, _ = self.process.communicate(timeout=20.0)
        return output

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)


@pytest.fixture
def start() -> Iterator[Callable[..., Twin]]:
    running: list[Twin] = []

    def start_twin(*parameters: str) -> Twin:
        running.append(Twin(*parameters))
        return running[-1]

    yield start_twin
    for twin in running:
        twin.close()


def stamp_s(message: JointState | CompressedImage) -> float:
    return message.header.stamp.sec + message.header.stamp.nanosec * 1e-9


def arm_trajectory(positions: list[float], seconds: int, joints: list[str]) -> JointTrajectory:
    point = JointTrajectoryPoint(positions=positions, velocities=[0.0] * len(positions))
    point.time_from_start = Duration(sec=seconds)
    return JointTrajectory(joint_names=joints, points=[point])


def test_joint_states_and_pictures_come_with_true_stamps_and_frames(start: Callable[..., Twin]) -> None:
    twin = start()
    states = twin.collect(JointState, "joint_states", RELIABLE)
    pictures = {name: twin.collect(CompressedImage, f"{name}/color/image_raw/compressed") for name in CAMERAS}
    raw = twin.collect(Image, "head/color/image_raw")
    info = twin.collect(CameraInfo, "head/color/camera_info")
    diagnostics = twin.collect(DiagnosticArray, "/diagnostics")
    twin.spin_until(lambda: all(len(p) > 30 for p in pictures.values()) and raw and info and len(diagnostics) > 1)

    assert states[0].name == list(DRIVEN_JOINTS)
    assert all(len(s.position) == len(s.velocity) == len(s.effort) == len(DRIVEN_JOINTS) for s in states)
    assert np.diff([stamp_s(s) for s in states]) == pytest.approx(0.010, abs=1e-6)  # 100 Hz, none missing

    stamps = {name: {stamp_s(p) for p in received} for name, received in pictures.items()}
    shared = set.intersection(*stamps.values())
    assert len(shared) >= 25  # all cameras share their instants
    assert np.diff(sorted(shared)).mean() == pytest.approx(1 / 30, rel=0.1)
    for name, received in pictures.items():
        assert received[0].header.frame_id == f"{name}_color_optical_frame"
        assert cv2.imdecode(np.frombuffer(received[0].data, np.uint8), cv2.IMREAD_COLOR).shape == (240, 320, 3)
    assert (raw[0].encoding, raw[0].width, raw[0].height, len(raw[0].data)) == ("rgb8", 320, 240, 320 * 240 * 3)
    assert info[0].header.frame_id == "head_color_optical_frame"
    assert info[0].k[0] == pytest.approx(160 / np.tan(np.radians(56) / 2))
    assert "real_time_factor" in [pair.key for pair in diagnostics[0].status[0].values]


def test_a_trajectory_moves_the_arm_and_a_bad_one_is_refused_without_motion(start: Callable[..., Twin]) -> None:
    twin = start()
    states = twin.collect(JointState, "joint_states", RELIABLE)
    publisher = twin.node.create_publisher(JointTrajectory, "dual_arm_controller/joint_trajectory", 1)
    twin.spin_until(lambda: states and publisher.get_subscription_count() == 1)
    arms = [name for name in DRIVEN_JOINTS if "arm" in name]
    column = DRIVEN_JOINTS.index(arms[0])
    home = [states[-1].position[DRIVEN_JOINTS.index(name)] for name in arms]

    publisher.publish(arm_trajectory([home[0] + 0.2, *home[1:]], 1, arms))
    twin.spin_until(lambda: abs(states[-1].position[column] - home[0] - 0.2) < 2e-3, 10.0)

    publisher.publish(arm_trajectory([home[0]], 1, arms[:1]))
    twin.spin(1.0)
    assert states[-1].position[column] == pytest.approx(home[0] + 0.2, abs=2e-3)
    output = twin.stop()
    assert output.count("trajectory refused: dual_arm_controller: joints do not match") == 1


def test_as_hardware_it_answers_on_the_topics_of_ros2_control_alone(start: Callable[..., Twin]) -> None:
    twin = start("hardware_topics:=true")
    states = twin.collect(JointState, "robot_joint_states", RELIABLE)
    others = twin.collect(JointState, "joint_states")
    commands = twin.node.create_publisher(JointState, "robot_joint_commands", 1)
    twin.spin_until(lambda: states and commands.get_subscription_count() == 1)
    yaw = DRIVEN_JOINTS.index("idx11_head_joint1")
    told = [float("nan")] * len(DRIVEN_JOINTS)  # what ros2_control sends before a controller has taken the joints
    commands.publish(JointState(name=DRIVEN_JOINTS, position=told))
    told[yaw] = 0.2
    commands.publish(JointState(name=DRIVEN_JOINTS, position=told))
    home = np.array(states[-1].position)
    twin.spin_until(lambda: abs(states[-1].position[yaw] - 0.2) < 2e-3, 10.0)
    moved = np.abs(np.array(states[-1].position) - home)
    assert moved[yaw] > 0.19 and np.delete(moved, yaw).max() < 5e-3
    assert twin.node.count_subscribers("dual_arm_controller/joint_trajectory") == 0
    assert others == []


def test_reset_brings_the_robot_home(start: Callable[..., Twin]) -> None:
    twin = start("seed:=5")
    states = twin.collect(JointState, "joint_states", RELIABLE)
    head = twin.node.create_publisher(JointTrajectory, "head_controller/joint_trajectory", 1)
    reset = twin.node.create_client(Trigger, "twin/reset")
    twin.spin_until(lambda: states and head.get_subscription_count() == 1 and reset.service_is_ready())
    yaw = DRIVEN_JOINTS.index("idx11_head_joint1")
    head.publish(arm_trajectory([0.5, 0.4], 1, ["idx11_head_joint1", "idx12_head_joint2"]))
    twin.spin_until(lambda: states[-1].position[yaw] > 0.45, 10.0)
    answer = reset.call_async(Trigger.Request())
    twin.spin_until(answer.done, 15.0)
    assert answer.result().success and sample_episode("seen", 5).instruction == answer.result().message
    count = len(states)
    twin.spin_until(lambda: len(states) > count + 5, 10.0)
    assert abs(states[-1].position[yaw]) < 1e-3
    stamps = [stamp_s(s) for s in states]
    assert stamps == sorted(stamps)  # time never runs backwards


def test_pictures_of_a_prefixed_robot_are_in_its_own_frames(start: Callable[..., Twin]) -> None:
    twin = start("frame_prefix:=left_lab/")
    heard = [
        twin.collect(CompressedImage, "head/color/image_raw/compressed"),
        twin.collect(Image, "hand_left/color/image_raw"),
        twin.collect(CameraInfo, "hand_right/color/camera_info"),
    ]
    twin.spin_until(lambda: all(heard))
    frames = [messages[0].header.frame_id for messages in heard]
    assert frames == [f"left_lab/{name}_color_optical_frame" for name in CAMERAS]


def test_simulated_time_starts_at_zero_and_drives_all_stamps(start: Callable[..., Twin]) -> None:
    twin = start("publish_clock:=true", "real_time_factor:=0.0")
    clock = twin.collect(Clock, "/clock", RELIABLE)
    states = twin.collect(JointState, "joint_states", RELIABLE)
    pictures = twin.collect(CompressedImage, "head/color/image_raw/compressed", RELIABLE)
    twin.spin_until(lambda: len(pictures) > 30 and len(states) > 30 and len(clock) > 30)
    assert stamp_s(states[-1]) < 1000.0
    assert np.diff([stamp_s(p) for p in pictures]).max() < 0.036  # every picture is rendered
    times = [message.clock.sec + message.clock.nanosec * 1e-9 for message in clock]
    assert np.diff(times) == pytest.approx(0.010, abs=1e-6)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_process_quietly(start: Callable[..., Twin], number: int) -> None:
    twin = start()
    states = twin.collect(JointState, "joint_states")
    twin.spin_until(lambda: len(states) > 0)
    output = twin.stop(number)
    assert twin.process.returncode == 0
    assert len(output.splitlines()) == 1 and "twin ready" in output


@pytest.mark.parametrize(
    ("parameter", "message"),
    [("image_width:=400", "image_width is 400, allowed are [320, 640]"), ("jpeg_quality:=200", "jpeg_quality")],
)
def test_a_bad_parameter_is_named_in_one_line(start: Callable[..., Twin], parameter: str, message: str) -> None:
    twin = start(parameter)
    output, _ = twin.process.communicate(timeout=START_TIMEOUT_S)
    assert twin.process.returncode == 1
    assert message in output and "Traceback" not in output
