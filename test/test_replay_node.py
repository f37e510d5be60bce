"""replay_node over DDS: it plays a bag byte for byte on the bag's clock, and policy_node bears its loops and seeks."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.serialization import serialize_message
from rosbags.rosbag2 import StoragePlugin, Writer
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, JointState
from std_msgs.msg import Float64
from trajectory_msgs.msg import JointTrajectory

from dreamzero_msgs.msg import ActionChunk, PolicyStatus
from dreamzero_policy.ros import qos
from dreamzero_policy.ros.messages import to_ns, to_stamp
from dreamzero_policy.ros.recorder import recording_types

from .robot import CAMERAS, CONTRACT, JOINTS

pytestmark = pytest.mark.stack
SECONDS, BEGIN_NS = 3.0, 1_700_000_000_000_000_000
NAMESPACE = "/replay"
PATIENCE_S = 240.0


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seconds of noise at 30 Hz and of joints that rest at 100 Hz."""
    folder, types = tmp_path_factory.mktemp("bags") / "noise", recording_types()
    said = [(BEGIN_NS + round(n * 1e9 / 100), "joint_states") for n in range(round(SECONDS * 100))]
    said += [(BEGIN_NS + round(n * 1e9 / 30), camera) for n in range(round(SECONDS * 30)) for camera in CAMERAS]
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
        self.trajectories: list[JointTrajectory] = []
        self.create_subscription(Clock, f"{NAMESPACE}/clock", lambda m: self.clock_ns.append(to_ns(m.clock)), 100)
        self.create_subscription(PolicyStatus, f"{NAMESPACE}/policy_node/status", self.statuses.append, qos.LATCHED)
        self.create_subscription(ActionChunk, f"{NAMESPACE}/policy_node/chunk", self.chunks.append, 10)
        for controller in CONTRACT.site.controllers:
            name = f"{controller.name}/joint_trajectory"
            self.create_subscription(JointTrajectory, f"/{name}", self.trajectories.append, 10)
        self._seek = self.create_publisher(Float64, f"{NAMESPACE}/replay_node/seek", 10)

    def listen(self) -> None:
        """To the sensors, so that playing begins."""
        self.create_subscription(JointState, f"{NAMESPACE}/joint_states", self.joints.append, 100, raw=True)
        for camera in CAMERAS:
            topic = f"{NAMESPACE}/{CONTRACT.site.cameras[camera].topic}/compressed"
            self.create_subscription(CompressedImage, topic, self.frames.append, 100)

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


@pytest.fixture
def ear(ros) -> Iterator[tuple[Listener, Callable]]:
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


PLAYER, POLICY = "dreamzero_policy.ros.replay_node", "dreamzero_policy.ros.policy_node"


def test_a_bag_is_played_byte_for_byte_on_its_own_clock_once_somebody_hears_it(ear, bag: Path, tmp_path: Path) -> None:
    listener, wait = ear
    with running(PLAYER, tmp_path / "log", bag=bag, player="own", rate_share=0.5) as player:
        wait(lambda: "waiting: nobody hears" in (tmp_path / "log").read_text(), "word that it waits")
        assert not listener.clock_ns
        listener.listen()
        wait(lambda: player.poll() is not None, "end of the bag")
        wait(lambda: len(listener.joints) == SECONDS * 100, "last joint state")
    assert player.returncode == 0, (tmp_path / "log").read_text()
    told = JointState(name=JOINTS, position=[0.1] * len(JOINTS))
    told.header.stamp = to_stamp(BEGIN_NS)
    assert listener.joints[0] == serialize_message(told)
    assert len(listener.frames) == SECONDS * 30 * len(CAMERAS)
    assert listener.clock_ns == sorted(listener.clock_ns)
    assert listener.clock_ns[0] >= BEGIN_NS and listener.clock_ns[-1] <= BEGIN_NS + SECONDS * 1e9
    assert len(listener.clock_ns) > 100


def test_a_seek_and_the_end_of_a_loop_set_the_clock(ear, bag: Path, tmp_path: Path) -> None:
    listener, wait = ear
    listener.listen()
    with running(PLAYER, tmp_path / "log", bag=bag, player="own", loop=True, start_s=1.0):
        wait(lambda: len(listener.clock_ns) > 10, "clock")
        assert listener.clock_ns[0] >= BEGIN_NS + 1e9
        listener.seek(0.5)
        wait(lambda: backwards(listener.clock_ns) == 1, "seek")
        wait(lambda: backwards(listener.clock_ns) == 2, "second round")
        listener.seek(99.0)
        wait(lambda: "no seek to 99 s: the bag lasts 2.990 s" in (tmp_path / "log").read_text(), "refusal")
    jumps = [(a, b) for a, b in zip(listener.clock_ns, listener.clock_ns[1:], strict=False) if b < a]
    assert [round((b - BEGIN_NS) / 1e9, 1) for _, b in jumps[:2]] == [0.5, 0.0]


def backwards(clock_ns: list[int]) -> int:
    return int((np.diff(clock_ns) < 0).sum())


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({}, "parameter bag is empty"),
        ({"bag": "/nowhere"}, "there is no bag /nowhere"),
        ({"start_s": 7.0}, "parameter start_s is 7, the bag lasts"),
        ({"player": "vlc"}, "parameter player is 'vlc', expected one of auto, ros2, own"),
    ],
)
def test_what_cannot_be_played_is_refused_in_one_line(
    ros, bag: Path, tmp_path: Path, parameters: dict, reason: str
) -> None:
    given = {"bag": bag, "player": "own", **parameters} if {"start_s", "player"} & set(parameters) else parameters
    with running(PLAYER, tmp_path / "log", **given) as player:
        assert player.wait(PATIENCE_S) == 1
    (line,) = [line for line in (tmp_path / "log").read_text().splitlines() if line.startswith("replay_node: ")]
    assert reason in line


def test_the_policy_bears_a_loop_and_nobody_hears_what_it_commands(ear, bag: Path, tmp_path: Path) -> None:
    listener, wait = ear
    with (
        running(PLAYER, tmp_path / "player", bag=bag, player="own", loop=True, rate_share=0.5),
        running(
            POLICY,
            tmp_path / "policy",
            *("-r", "/clock:=clock"),
            use_sim_time=True,
            autostart=True,
            require_controllers=False,
            prompt="touch the red cube with the left hand",
        ),
    ):
        wait(lambda: len(listener.chunks) >= 2, "chunks")
        before = listener.chunks[-1].epoch
        wait(lambda: backwards(listener.clock_ns) >= 1, "second round")
        wait(lambda: any("clock_jumped" in status.fault_names for status in listener.statuses), "word of the jump")
        heard = len(listener.chunks)
        wait(lambda: listener.chunks[-1].epoch > before and len(listener.chunks) > heard + 1, "chunks of a new epoch")
    assert all(BEGIN_NS <= to_ns(chunk.header.stamp) <= BEGIN_NS + SECONDS * 1e9 for chunk in listener.chunks)
    assert not listener.trajectories
