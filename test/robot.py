"""A robot of a few lines for tests: publishes what it is told to, remembers what it is sent."""

import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import psutil
from ament_index_python.packages import get_package_share_directory
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from dreamzero_msgs.msg import ActionChunk, PolicyStatus
from dreamzero_policy.ros import qos
from dreamzero_policy.ros.messages import image_message
from dreamzero_policy.runtime.command import Command
from dreamzero_policy.runtime.contract import load_contract
from dreamzero_policy.runtime.rest import stopping_s

CONTRACT = load_contract(Path(get_package_share_directory("dreamzero")) / "config" / "agibot_g1.yaml")
CAMERAS = CONTRACT.model.cameras
JOINTS = list(CONTRACT.model.commanded_joints)
BEGIN = 0.1  # rad and m: where every joint begins


class Robot(Node):
    """Cameras at 30 Hz, joint states at 100 Hz, whatever is switched on. It stands still, or does what it is told."""

    def __init__(self) -> None:
        super().__init__("robot")
        self.cameras: Sequence[str] = CAMERAS
        self.frozen: Sequence[str] = ()  # cameras without the noise of a sensor
        self.late_s: dict[str, float] = {}  # how old the stamps of a camera are
        self.repeats = False  # every frame is sent twice, the second time behind the next one
        self.obeys = False
        self.size = (240, 320)
        self.encoding = "rgb8"
        self.names, self.positions = JOINTS, [BEGIN] * len(JOINTS)
        self.prompted = ""  # last
        self.trajectories: list[JointTrajectory] = []
        self.commands: dict[str, Command] = {}
        self.put_back()
        self.diagnoses: dict[str, DiagnosticStatus] = {}  # the newest, by name
        self.chunks: list[ActionChunk] = []
        self.statuses: list[PolicyStatus] = []
        self._jpeg = {
            camera: self.create_publisher(CompressedImage, f"{camera}/color/image_raw/compressed", 5)
            for camera in CAMERAS
        }
        self._previous: dict[str, CompressedImage] = {}
        self._raw = {camera: self.create_publisher(Image, f"{camera}/color/image_raw", 5) for camera in CAMERAS}
        self._joints = self.create_publisher(JointState, "joint_states", 10)
        self._prompt = self.create_publisher(String, "/policy_node/prompt", 10)
        self._ears = {controller.name: self._listen(controller.name) for controller in CONTRACT.site.controllers}
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self.create_subscription(PolicyStatus, "/policy_node/status", self.statuses.append, qos.LATCHED)
        self.create_subscription(ActionChunk, "/policy_node/chunk", self.chunks.append, 10)
        self.create_timer(1 / 30, self._film)
        self.create_timer(1 / 100, self._feel)

    def put_back(self) -> None:
        """Somebody brings the joints, which stand still, to where they began."""
        for controller in CONTRACT.site.controllers:
            self.commands[controller.name] = Command([BEGIN] * len(controller.joints), self._now_ns())

    def prompt(self, text: str) -> None:
        self.prompted = text
        self._prompt.publish(String(data=text))

    def lose(self, controller: str) -> None:
        """The controller is gone."""
        self.destroy_subscription(self._ears.pop(controller))

    def find(self, controller: str) -> None:
        """The controller is back."""
        self._ears[controller] = self._listen(controller)

    def rest_ns(self) -> int:
        """When everything stands still, if nothing follows."""
        return max(command.rest_ns for command in self.commands.values())

    def moving(self) -> bool:
        """Now or later."""
        return self.rest_ns() > self._now_ns()

    def is_told_to_move(self) -> bool:
        """Now."""
        return any(c.plan.sample([self._now_ns()])[1].any() for c in self.commands.values())

    def stopping_s(self, within_s: float) -> float:
        """The longest stopping time from any state commanded between now and then, by the limits alone."""
        instants = self._now_ns() + np.arange(0, round(within_s * 1e9) + 1, 10_000_000)
        return max(
            stopping_s(speeds, [CONTRACT.site.limits[joint] for joint in controller.joints])
            for controller in CONTRACT.site.controllers
            for speeds in self.commands[controller.name].plan.sample(instants)[1]
        )

    def _listen(self, name: str):
        return self.create_subscription(
            JointTrajectory, f"{name}/joint_trajectory", partial(self._on_trajectory, name), 10
        )

    def _on_trajectory(self, name: str, message: JointTrajectory) -> None:
        self.trajectories.append(message)
        after_ns = [point.time_from_start.sec * 10**9 + point.time_from_start.nanosec for point in message.points]
        self.commands[name].take(
            self._now_ns(), after_ns, [p.positions for p in message.points], [p.velocities for p in message.points]
        )

    def _on_diagnostics(self, array: DiagnosticArray) -> None:
        self.diagnoses.update((status.name, status) for status in array.status)

    def _now_ns(self) -> int:
        return self.get_clock().now().nanoseconds

    @property
    def status(self) -> PolicyStatus | None:
        return self.statuses[-1] if self.statuses else None

    def _film(self) -> None:
        for camera in self.cameras:
            picture = np.full((*self.size, 3), 90, np.uint8)
            if camera not in self.frozen:
                picture[:8, :8] = random.randrange(256)
            stamp_ns = self._now_ns() - round(self.late_s.get(camera, 0.0) * 1e9)
            message = image_message(picture, stamp_ns, f"{camera}_color_optical_frame")
            message.encoding = self.encoding
            if self._raw[camera].get_subscription_count():
                self._raw[camera].publish(message)
            jpeg = CompressedImage(
                header=message.header, format="jpeg", data=cv2.imencode(".jpg", picture)[1].tobytes()
            )
            self._jpeg[camera].publish(jpeg)
            if self.repeats:
                self._jpeg[camera].publish(jpeg)
                self._jpeg[camera].publish(self._previous.get(camera, jpeg))
            self._previous[camera] = jpeg

    def _feel(self) -> None:
        if not self.names:
            return
        if self.obeys:
            now_ns = [self._now_ns()]
            told = {
                joint: position
                for controller in CONTRACT.site.controllers
                for joint, position in zip(
                    controller.joints, self.commands[controller.name].plan.sample(now_ns)[0][0].tolist(), strict=True
                )
            }
            self.positions = [told[joint] for joint in self.names]
        message = JointState(
            name=self.names, position=self.positions, velocity=[0.0] * len(self.names), effort=[0.0] * len(self.names)
        )
        message.header.stamp = self.get_clock().now().to_msg()
        self._joints.publish(message)


class Bench:
    """The robot beside a real policy_node process."""

    def __init__(self, process: subprocess.Popen, log: Path) -> None:
        self.process, self.log = process, log
        self.robot = Robot()
        self.stop = self.robot.create_client(Trigger, "/policy_node/stop")
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.robot)

    def spin(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=left)

    def wait(self, condition: Callable[[], bool], timeout_s: float, what: str) -> None:
        """Spin until the condition holds."""
        until = time.monotonic() + timeout_s
        while not condition():
            assert self.process.poll() is None, f"policy_node ended:\n{self.log.read_text()}"
            assert time.monotonic() < until, f"no {what} in {timeout_s} s; last status: {self.robot.status}"
            self._executor.spin_once(timeout_sec=0.05)

    def begin_again(self, prompt: str | None = None) -> None:
        """Follow a prompt, or the one that was given last, from where the robot began.

        With pictures of nothing a model wanders, in the end into a joint's stop, where its chunks are refused.
        """
        self.wait(self.stop.service_is_ready, 10, "service")
        stopped = self.stop.call_async(Trigger.Request())
        self.wait(stopped.done, 10, "answer")
        self.wait(lambda: not self.robot.moving(), 5, "rest")
        self.robot.put_back()
        self.spin(0.2)  # the node hears of it
        self.robot.prompt(prompt or self.robot.prompted)

    def wait_for_motion(self, timeout_s: float) -> None:
        """Until the beginning of an executed chunk."""

        def moves() -> bool:
            left_ns = self.robot.rest_ns() - self.robot.get_clock().now().nanoseconds
            return self.robot.is_told_to_move() and left_ns > 0.6e9

        self.wait(moves, timeout_s, "motion")

    def model(self) -> psutil.Process:
        """The worker's process."""
        (child,) = psutil.Process(self.process.pid).children(recursive=True)
        return child

    def kill_model(self) -> None:
        """The worker's process dies without a word."""
        self.model().kill()

    def close(self) -> None:
        self._executor.shutdown()
        self.robot.destroy_node()


@contextmanager
def bench(folder: Path, **parameters: object) -> Iterator[Bench]:
    """A policy_node process with these parameters and a robot beside it."""
    arguments = [
        item
        for name, value in ({"autostart": True} | parameters).items()
        for item in ("-p", f"{name}:={str(value).lower() if isinstance(value, bool) else value}")
    ]
    log = folder / "policy.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "dreamzero_policy.ros.policy_node", "--ros-args", *arguments],
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
    own = Bench(process, log)
    try:
        yield own
    finally:
        own.close()
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
