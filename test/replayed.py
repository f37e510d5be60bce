"""A small bag, replay_node that plays it, and an ear for what it and a policy_node beside it say: for tests over DDS.

A replay is slower than life where the machine is: everything is there in time, however busy it is.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.serialization import serialize_message
from rosbags.rosbag2 import StoragePlugin, Writer
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, JointState
from std_msgs.msg import Float32, Float64
from trajectory_msgs.msg import JointTrajectory

from dreamzero_msgs.msg import ActionChunk, PolicyStatus
from dreamzero_policy.ros import qos
from dreamzero_policy.ros.messages import to_ns, to_stamp
from dreamzero_policy.ros.recorder import recording_types

from .robot import CAMERAS, CONTRACT, JOINTS

BEGIN_NS = 1_700_000_000_000_000_000
NAMESPACE = "/replay"
PATIENCE_S = 240.0
PLAYER, POLICY = "dreamzero_policy.ros.replay_node", "dreamzero_policy.ros.policy_node"


def write_bag(folder: Path, seconds: float) -> Path:
    """Noise at 30 Hz, and joints that rest at 100 Hz."""
    types = recording_types()
    said = [(BEGIN_NS + round(n * 1e9 / 100), "joint_states") for n in range(round(seconds * 100))]
    said += [(BEGIN_NS + round(n * 1e9 / 30), camera) for n in range(round(seconds * 30)) for camera in CAMERAS]
    rng = np.random.default_rng(0)
    with Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        for stamp_ns, source in sorted(said):
            if source == "joint_states":
                topic, message = f"/{source}", JointState(name=JOINTS, position=[0.1] * len(JOINTS))
            else:
                site = CONTRACT.site.cameras[source]
                topic = f"/{site.topic}/compressed"
                picture = np.full((site.height_px, site.width_px, 3), 90, np.uint8)
                picture[:32, :32] = rng.integers(0, 256, (32, 32, 3))
                message = CompressedImage(format="jpeg", data=cv2.imencode(".jpg", picture)[1].tobytes())
            message.header.stamp = to_stamp(stamp_ns)
            kind = f"sensor_msgs/msg/{type(message).__name__}"
            known = [connection for connection in writer.connections if connection.topic == topic]
            connection = known[0] if known else writer.add_connection(topic, kind, typestore=types)
            writer.write(connection, stamp_ns + 1_000_000, serialize_message(message))
    return folder


class Listener(Node):
    """Hears what is played, as policy_node would."""

    def __init__(self) -> None:
        super().__init__("listener")
        self.clock_ns: list[int] = []
        self.joints: list[bytes] = []
        self.frames: list[CompressedImage] = []
        self.statuses: list[PolicyStatus] = []
        self.chunks: list[ActionChunk] = []
        self.trajectories: list[JointTrajectory] = []  # that a robot beside the replay would hear
        self.unheard: list[JointTrajectory] = []  # those of the replay
        self.distances: list[float] = []
        self.diagnosis: dict[str, str] = {}  # the newest of policy_node
        self.create_subscription(Clock, f"{NAMESPACE}/clock", lambda m: self.clock_ns.append(to_ns(m.clock)), 100)
        self.create_subscription(PolicyStatus, f"{NAMESPACE}/policy_node/status", self.statuses.append, qos.LATCHED)
        self.create_subscription(ActionChunk, f"{NAMESPACE}/policy_node/chunk", self.chunks.append, 10)
        for controller in CONTRACT.site.controllers:
            name = f"{controller.name}/joint_trajectory"
            self.create_subscription(JointTrajectory, f"/{name}", self.trajectories.append, 10)
            self.create_subscription(JointTrajectory, f"{NAMESPACE}/{name}", self.unheard.append, 10)
        self.create_subscription(Float32, f"{NAMESPACE}/policy_node/surprise", self._on_distance, 10)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self._seek = self.create_publisher(Float64, f"{NAMESPACE}/replay_node/seek", 10)

    def listen(self) -> None:
        """To the sensors, so that playing begins."""
        self.create_subscription(JointState, f"{NAMESPACE}/joint_states", self.joints.append, 100, raw=True)
        for camera in CAMERAS:
            topic = f"{NAMESPACE}/{CONTRACT.site.cameras[camera].topic}/compressed"
            self.create_subscription(CompressedImage, topic, self.frames.append, 100)

    def _on_distance(self, message: Float32) -> None:
        self.distances.append(message.data)

    def _on_diagnostics(self, array: DiagnosticArray) -> None:
        for status in array.status:
            if status.name == f"{NAMESPACE}/policy_node: policy":
                self.diagnosis = {pair.key: pair.value for pair in status.values}

    def seek(self, seconds: float) -> None:
        self._seek.publish(Float64(data=seconds))


@contextmanager
def running(module: str, log: Path, *arguments: str, **parameters: object) -> Iterator[subprocess.Popen]:
    """A node of the stack in the namespace, as its launch file starts it."""
    given = [
        f"{name}:={str(value).lower() if isinstance(value, bool) else value}" for name, value in parameters.items()
    ]
    command = [sys.executable, "-m", module, "--ros-args", "-r", f"__ns:={NAMESPACE}", *arguments]
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [*command, *(item for each in given for item in ("-p", each))], stdout=stream, stderr=subprocess.STDOUT
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def listening() -> Iterator[tuple[Listener, Callable[[Callable[[], bool], str], None]]]:
    """A listener, and a way to wait for what it is to hear."""
    listener, executor = Listener(), SingleThreadedExecutor()
    executor.add_node(listener)

    def wait(condition: Callable[[], bool], what: str) -> None:
        until = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < until, f"no {what} in {PATIENCE_S} s"
            executor.spin_once(timeout_sec=0.05)

    yield listener, wait
    executor.shutdown()
    listener.destroy_node()


def policy_beside(log: Path, **parameters: object):
    """policy_node as the launch file starts it, following an instruction."""
    given = {
        "use_sim_time": True,
        "autostart": True,
        "require_controllers": False,
        "prompt": "touch the red cube with the left hand",
        **parameters,
    }
    return running(POLICY, log, "-r", "/clock:=clock", **given)
