"""replay_node: a bag in the place of a robot. It plays what policy_node hears, and the clock of the recording.

    bag ──► replay_node ──► cameras, joint_states, clock ──► policy_node (unchanged) ──► trajectories nobody follows

`ros2 bag play` does the playing where there is one, else this node does; both play under the contract's relative names,
so that in a namespace of its own a replay meets no robot. Playing begins when somebody hears every topic, since a model
takes its time to load. A bag that begins anew, and a seek, set the clock: policy_node begins a new epoch.
"""

import contextlib
import importlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import rclpy
from ament_index_python.packages import get_package_share_directory
from rclpy.exceptions import ParameterException
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.signals import SignalHandlerOptions
from rosgraph_msgs.msg import Clock
from std_msgs.msg import Float64

from dreamzero_policy.replay.playback import CLOCK_HZ, EpisodeError, Playback, play_command
from dreamzero_policy.ros import qos
from dreamzero_policy.ros.executors import single_threaded_executor
from dreamzero_policy.ros.messages import to_stamp
from dreamzero_policy.ros.parameters import Parameter, ParameterError
from dreamzero_policy.runtime.contract import ContractError, load_contract
from dreamzero_policy.runtime.interruption import interruption
from dreamzero_policy.runtime.observation import NS_PER_S

SENSOR = QoSProfile(depth=60, reliability=qos.EVENT.reliability)
PLAYERS = AUTO, ROS2, OWN = "auto", "ros2", "own"
TICK_S = 1 / CLOCK_HZ
ASK_ROS2_S = 30.0

PARAMETERS = (
    Parameter("bag", "", "Path of the bag: a folder with metadata.yaml, or one .mcap or .db3 file."),
    Parameter("contract", "", "Path of the contract file; empty takes config/agibot_g1.yaml of the installed stack."),
    Parameter(
        "player",
        AUTO,
        "What plays: ros2 bag play, this node itself, or auto: the first where it is installed.",
        choices=PLAYERS,
    ),
    Parameter("rate_share", 1.0, "Times real time.", 0.01, 100.0),
    Parameter("loop", False, "Begin anew at the end; else the node ends there."),
    Parameter("start_s", 0.0, "Where to begin behind the bag's begin [s].", 0.0, 1e6),
)


class ReplayNode(Node):
    """Plays an open bag while somebody spins it; `done` is set at the end."""

    def __init__(self) -> None:
        super().__init__("replay_node")
        for parameter in PARAMETERS:
            self.declare_parameter(parameter.name, parameter.default, parameter.descriptor())
        values = {parameter.name: self.get_parameter(parameter.name).value for parameter in PARAMETERS}
        if values["player"] not in PLAYERS:
            raise ParameterError(f"parameter player is {values['player']!r}, expected one of {', '.join(PLAYERS)}")
        if not values["bag"]:
            raise ParameterError("parameter bag is empty, expected the path of a bag")
        share = Path(get_package_share_directory("dreamzero"))
        self.bag, self.player = Path(values["bag"]), values["player"]
        self.contract = load_contract(values["contract"] or share / "config" / "agibot_g1.yaml")
        self.rate, self.loop, self.start_s = values["rate_share"], values["loop"], values["start_s"]
        self.done = False

    def open(self, playback: Playback) -> None:
        """Take a bag. Raises ParameterError for a start behind its end."""
        self._playback, self._seek_s = playback, self.start_s
        if not self._within(self.start_s):
            raise ParameterError(f"parameter start_s is {self.start_s:g}, the bag lasts {self._seconds:.3f} s")

    def advertise(self) -> None:
        """Publish from here on; `advance` plays."""
        self._topics = {
            source.name: self.create_publisher(_kind(source.kind), source.name, SENSOR)
            for source in self._playback.sources
        }
        self._clock = self.create_publisher(Clock, "clock", SENSOR)
        self.create_subscription(Float64, "~/seek", self._on_seek, qos.EVENT)

    def unheard(self) -> list[str]:
        """Topics that nobody subscribes to yet."""
        names = [source.name for source in self._playback.sources]
        return [name for name in names if not self.count_subscribers(self.resolve_topic_name(name))]

    def advance(self) -> None:
        """Publish all that is due now, and the clock."""
        if self._seek_s is not None:
            self._begin(self._playback.begin_ns + round(self._seek_s * NS_PER_S))
        now_ns = self._now_ns()
        while self._next is not None and self._next.instant_ns <= now_ns:
            self._tell_clock(self._next.instant_ns)
            self._topics[self._next.source.name].publish(self._next.data)
            self._next = next(self._messages, None)
        self._tell_clock(min(now_ns, self._playback.end_ns))
        if self._next is None and now_ns > self._playback.end_ns:
            self._seek_s, self.done = (0.0, False) if self.loop else (None, True)

    def _begin(self, from_ns: int) -> None:
        self._seek_s = None
        self._messages = self._playback.messages(from_ns)
        self._next = next(self._messages, None)
        self._from_ns, self._told_ns, self._began_s = from_ns, None, time.monotonic()

    def _now_ns(self) -> int:
        """Of the recording."""
        return self._from_ns + round((time.monotonic() - self._began_s) * self.rate * NS_PER_S)

    def _tell_clock(self, instant_ns: int) -> None:
        if self._told_ns is None or instant_ns - self._told_ns >= NS_PER_S // CLOCK_HZ:
            self._told_ns = instant_ns
            self._clock.publish(Clock(clock=to_stamp(instant_ns)))

    def _on_seek(self, message: Float64) -> None:
        if self._within(message.data):
            self._seek_s = message.data
        else:
            self.get_logger().warning(f"no seek to {message.data:g} s: the bag lasts {self._seconds:.3f} s")

    @property
    def _seconds(self) -> float:
        return (self._playback.end_ns - self._playback.begin_ns) / NS_PER_S

    def _within(self, seconds: float) -> bool:
        return 0 <= seconds <= self._seconds


def has_ros2_bag() -> bool:
    """Whether `ros2 bag play` can be called."""
    if shutil.which("ros2") is None:
        return False
    with contextlib.suppress(subprocess.TimeoutExpired):
        asked = subprocess.run(["ros2", "bag", "play", "--help"], capture_output=True, timeout=ASK_ROS2_S, check=False)
        return asked.returncode == 0
    return False


def _kind(name: str) -> type:
    """The message class of, for example, sensor_msgs/msg/JointState."""
    package, _, kind = name.split("/")
    return getattr(importlib.import_module(f"{package}.msg"), kind)


def _play(node: ReplayNode, interrupted: threading.Event) -> int:
    """Wait for listeners, then play to the end or until interrupted; the exit status."""
    by_ros2 = node.player == ROS2 or (node.player == AUTO and has_ros2_bag())
    executor = single_threaded_executor()
    executor.add_node(node)
    with Playback(node.bag, node.contract) as playback:
        node.open(playback)
        if not by_ros2:
            node.advertise()
        while node.unheard() and not interrupted.is_set():
            node.get_logger().info(f"waiting: nobody hears {', '.join(node.unheard())}", throttle_duration_sec=5.0)
            executor.spin_once(timeout_sec=0.1)
        node.get_logger().info(f"playing {node.bag} by {'ros2 bag play' if by_ros2 else 'this node'}")
        if not by_ros2:
            while not node.done and not interrupted.is_set():
                node.advance()
                executor.spin_once(timeout_sec=TICK_S)
            return 0
        sources = playback.sources
    namespace = node.get_namespace().rstrip("/") + "/"
    command = play_command(node.bag.resolve(), sources, namespace, rate=node.rate, loop=node.loop, start_s=node.start_s)
    player = subprocess.Popen(command, start_new_session=True)
    try:
        while player.poll() is None and not interrupted.is_set():
            executor.spin_once(timeout_sec=0.1)
    finally:
        if player.poll() is None:
            os.killpg(player.pid, signal.SIGINT)
        code = player.wait()
    return 0 if interrupted.is_set() else code


def main() -> None:
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    interrupted = interruption()
    try:
        code = _play(ReplayNode(), interrupted)
    except (ParameterError, ParameterException, ContractError, EpisodeError) as error:
        sys.exit(f"replay_node: {error}")
    finally:
        rclpy.try_shutdown()
    sys.exit(code)


if __name__ == "__main__":
    main()
