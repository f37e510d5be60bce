"""Over real DDS: go_home brings the twin home, straight to the controllers and through the safety gate.

Simulated time, so that a busy machine is no slower robot.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import rclpy
from builtin_interfaces.msg import Duration
from rclpy.clock import Clock, ClockType
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from agibot_bringup.description import load_home
from dreamzero_policy.runtime.command import Command
from dreamzero_policy.runtime.contract import load_contract
from dreamzero_policy.runtime.limits import Limits

pytestmark = pytest.mark.stack

CONTRACT_FILE = Path(__file__).parents[1] / "config" / "agibot_g1.yaml"
CONTRACT = load_contract(CONTRACT_FILE)
CONTROLLERS = {controller.name: controller for controller in CONTRACT.site.controllers}
HOME = load_home()
TRACKING = CONTRACT.site.tolerances.tracking
AWAY = {  # from home, by controller: rad, m
    "dual_arm_controller": [0.3, -0.2, 0.2, -0.3, 0.2, 0.1, 0.3, -0.3, 0.2, -0.2, 0.3, -0.2, -0.1, -0.3],
    "head_controller": [0.5, -0.2],
    "waist_controller": [-0.1, 0.04],
}
TIMEOUT_S = 120.0


class Stand:
    """The twin's process, further ones beside it, and a node that watches what is sent and where the joints are."""

    def __init__(self) -> None:
        self.domain = random.SystemRandom().randint(1, 100)
        os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
        self.processes: list[subprocess.Popen] = []
        self.start("agibot_twin.twin_node", "publish_clock:=true", "camera_rate_hz:=1.0")
        self.context = Context()
        rclpy.init(context=self.context, domain_id=self.domain)
        self.node = rclpy.create_node(
            "stand", context=self.context, parameter_overrides=[Parameter("use_sim_time", value=True)]
        )
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.joints: dict[str, float] = {}
        self.velocities: dict[str, float] = {}
        self.status = ""
        self.sent: list[str] = []  # controllers, in the order of what was sent to them
        self.commands: dict[str, Command] = {}
        self.node.create_subscription(JointState, "joint_states", self._on_joint_states, 10)
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.node.create_subscription(String, "safety_gate/status", self._on_status, latched)
        self.pressed: bool | None = False  # None: estop is silent
        self._estop = self.node.create_publisher(Bool, "estop", 10)
        self.node.create_timer(0.05, self._beat, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self.senders = {}
        for name in CONTROLLERS:
            topic = f"{name}/joint_trajectory"
            self.senders[name] = self.node.create_publisher(JointTrajectory, topic, 1)
            self.node.create_subscription(JointTrajectory, topic, partial(self._on_trajectory, name), 10)
        self.spin_until(lambda: self.joints and all(s.get_subscription_count() >= 2 for s in self.senders.values()))
        for name, controller in CONTROLLERS.items():
            self.commands[name] = Command([HOME[joint] for joint in controller.joints], self.now_ns())

    def start(self, module: str, *parameters: str) -> subprocess.Popen:
        arguments = [word for parameter in parameters for word in ("-p", parameter)]
        process = subprocess.Popen(
            [sys.executable, "-m", module, "--ros-args", *arguments],
            env=dict(os.environ, ROS_DOMAIN_ID=str(self.domain), OMP_NUM_THREADS="1"),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.processes.append(process)
        return process

    def go_home(self, *parameters: str) -> subprocess.Popen:
        """It begins once it hears the stand's estop and so knows of the stand, which must miss nothing."""
        return self.start(
            "agibot_bringup.go_home.node",
            f"contract:={CONTRACT_FILE}",
            "use_sim_time:=true",
            "wait_s:=60.0",
            "require_estop:=true",
            "estop_timeout_s:=10.0",
            *parameters,
        )

    def now_ns(self) -> int:
        return self.node.get_clock().now().nanoseconds

    def _on_joint_states(self, message: JointState) -> None:
        self.joints = dict(zip(message.name, message.position, strict=True))
        self.velocities = dict(zip(message.name, message.velocity, strict=True))

    def _beat(self) -> None:
        if self.pressed is not None:
            self._estop.publish(Bool(data=self.pressed))

    def _on_status(self, message: String) -> None:
        self.status = message.data

    def _on_trajectory(self, name: str, message: JointTrajectory) -> None:
        """As a controller takes it; what it makes of it must keep the limits."""
        self.sent.append(name)
        after_ns = [p.time_from_start.sec * 10**9 + p.time_from_start.nanosec for p in message.points]
        column = [message.joint_names.index(joint) for joint in CONTROLLERS[name].joints]
        positions, velocities = (
            np.array([getattr(p, what) for p in message.points])[:, column] for what in ("positions", "velocities")
        )
        own = self.commands[name].take(self.now_ns(), after_ns, positions, velocities)
        judgement = Limits(CONTROLLERS[name].joints, CONTRACT.site.limits).judge(own)
        assert judgement, judgement.reason

    def send_away(self) -> None:
        """As a planner executes: straight to the controllers, whatever the gate says."""
        for name, away in AWAY.items():
            joints = CONTROLLERS[name].joints
            goal = [HOME[joint] + shift for joint, shift in zip(joints, away, strict=True)]
            point = JointTrajectoryPoint(positions=goal, velocities=[0.0] * len(goal), time_from_start=Duration(sec=4))
            self.senders[name].publish(JointTrajectory(joint_names=joints, points=[point]))
        self.spin_until(lambda: self.distance() > 0.25 and self.stands(), TIMEOUT_S)
        self.sent.clear()

    def distance(self, joints: Sequence[str] = tuple(HOME)) -> float:
        """Of the joint that is farthest from home [rad, m]."""
        return max(abs(self.joints[joint] - HOME[joint]) for joint in joints)

    def stands(self) -> bool:
        return max(abs(velocity) for velocity in self.velocities.values()) < 2e-3

    def moves(self) -> bool:
        return max(abs(velocity) for velocity in self.velocities.values()) > 0.1

    def ask(self, service: str) -> Trigger.Response:
        client = self.node.create_client(Trigger, service)
        self.spin_until(client.service_is_ready)
        answer = client.call_async(Trigger.Request())
        self.spin_until(answer.done)
        return answer.result()

    def spin_until(self, condition: Callable[[], bool], timeout_s: float = TIMEOUT_S) -> None:
        until = time.monotonic() + timeout_s
        while not condition():
            assert self.processes[0].poll() is None, f"the twin ended: {self.processes[0].stdout.read()}"
            assert time.monotonic() < until, f"timed out; the gate says {self.status!r}"
            self.executor.spin_once(timeout_sec=0.1)

    def finish(self, process: subprocess.Popen) -> str:
        """Watch until a process has ended; its output."""
        self.spin_until(lambda: process.poll() is not None)
        return process.stdout.read()

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.communicate()
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)


@pytest.fixture
def stand() -> Iterator[Stand]:
    stand = Stand()
    yield stand
    stand.close()


def test_the_twin_goes_home_by_its_controllers_inside_the_limits(stand: Stand) -> None:
    stand.send_away()
    process = stand.go_home("speed_share:=0.5")
    output = stand.finish(process)
    assert process.returncode == 0, output
    assert output.startswith("go_home: at home, 1 legs")
    stand.spin_until(stand.stands)
    assert stand.distance() < TRACKING
    assert set(stand.sent) == set(CONTROLLERS)

    again = stand.go_home()
    assert stand.finish(again).startswith("go_home: at home")  # already, or a little nearer
    assert again.returncode == 0


def test_a_planner_moves_while_the_gate_is_closed_then_the_gate_lets_the_robot_go_home(stand: Stand) -> None:
    stand.start("agibot_bringup.safety_gate.node", f"contract:={CONTRACT_FILE}", "use_sim_time:=true", "deadman:=none")
    stand.spin_until(lambda: stand.status.startswith("closed"))
    stand.send_away()
    refused = stand.go_home("output:=gate", "speed_share:=0.5", "grippers:=false")
    output = stand.finish(refused)
    assert refused.returncode == 1 and "safety_gate/status says why" in output
    assert stand.sent == [] and stand.distance() > 0.25

    assert stand.ask("safety_gate/open").success
    process = stand.go_home("output:=gate", "speed_share:=0.5", "grippers:=false")
    output = stand.finish(process)
    assert process.returncode == 0, output
    assert set(stand.sent) == {name for name in CONTROLLERS if "gripper" not in name}
    assert stand.distance() < TRACKING

    assert stand.ask("safety_gate/close").success  # and back to the planner
    stand.spin_until(lambda: stand.status.startswith("closed"))
    stand.send_away()


def test_where_a_stop_is_required_nothing_moves_before_it_was_heard_to_be_released(stand: Stand) -> None:
    stand.send_away()
    stand.pressed = None
    refused = stand.go_home("wait_s:=8.0")
    output = stand.finish(refused)
    assert refused.returncode == 1 and "no message on estop, and require_estop is set within 8 s" in output
    assert stand.sent == []
    stand.pressed = False
    process = stand.go_home("estop_timeout_s:=2.0")
    output = stand.finish(process)
    assert process.returncode == 0, output


@pytest.mark.parametrize("how", ["interrupt", "the terminal is gone", "estop"])
def test_on_the_way_home_a_stop_brings_the_robot_to_rest(stand: Stand, how: str) -> None:
    stand.send_away()
    process = stand.go_home("speed_share:=0.3")
    stand.spin_until(stand.moves)
    if how == "estop":
        stand.pressed = True
    else:
        process.send_signal(signal.SIGINT if how == "interrupt" else signal.SIGHUP)
    output = stand.finish(process)
    assert process.returncode == 1
    why = "estop is pressed" if how == "estop" else "interrupted"
    assert output == f"go_home: {why}; the robot comes to rest on its way\n"
    stand.spin_until(lambda: len(stand.sent) >= 2 * len(CONTROLLERS))  # the way, and the way to rest
    stand.spin_until(stand.stands)
    assert stand.distance() > 2 * TRACKING
    assert len(stand.sent) == 2 * len(CONTROLLERS)
