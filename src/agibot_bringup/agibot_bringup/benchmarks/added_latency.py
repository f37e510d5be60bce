"""What safety gate and bridge add to a message on its way, over real topics.

    python -m agibot_bringup.benchmarks.added_latency gate config/agibot_g1.yaml --seconds 30 --json
    python -m agibot_bringup.benchmarks.added_latency bridge config/agibot_g1.yaml

One process is source and receiver of everything, the node is another. A hundred times a second a message goes through
the node, and 5 ms later the very same message goes straight from the same publisher's process to the same receiver's,
so that whatever else the machine does meets both alike. What is added, the second hop with it, is the difference of
their percentiles. The bridge's robot speaks sensor_msgs/JointState for every group, since the robot's own messages come
with the robot alone.
"""

import argparse
import json
import math
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import rclpy
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from agibot_bringup.bridge.adapter import Hear
from agibot_bringup.bridge.bench import UNITS
from agibot_bringup.bridge.node import COMMAND, LATCHED, Bridge
from agibot_bringup.bridge.node import main as run_bridge
from agibot_bringup.bridge.topics import COMMANDS
from agibot_bringup.bridge.units import LEFT_GRIPPER, RIGHT_GRIPPER, Group, unit_table
from agibot_bringup.executors import quickest_executor
from agibot_bringup.safety_gate.bench import motion_ahead
from dreamzero_policy.runtime.contract import Contract, load_contract
from dreamzero_policy.runtime.observation import NS_PER_S

PERIOD_NS, SETTLE, TIMEOUT_S = NS_PER_S // 100, 200, 120.0
REPORTS = {group: f"/hal/{group.name.lower()}" for group in Group}


class Subject(Protocol):
    """A node under measurement, with the world that it needs."""

    command: list[str]  # starts the node
    node: Node
    sent: Any  # publisher of what goes through
    arrived: str  # topic on which it comes out
    kind: type  # of the message there
    status: str  # topic of the node's own words

    def ready(self, spin: Callable[[Callable[[], bool]], None]) -> None:
        """Bring the node to where messages pass."""

    def surround(self) -> None:
        """What else the node hears, a hundred times a second."""

    def message(self) -> Any:
        """What goes through next."""

    def number(self, message: Any) -> float:
        """By which a message is known, before and behind the node."""


class GateSubject:
    """Trajectories of two seconds, 60 points, for the controller with the most joints."""

    def __init__(self, contract: Contract, file: Path, node: Node) -> None:
        self.node, self.kind, self.status = node, JointTrajectory, "safety_gate/status"
        parameters = ("-p", f"contract:={file}", "-p", "deadman:=none", "-p", "max_stamp_age_s:=1.0")
        self.command = [sys.executable, "-m", "agibot_bringup.safety_gate.node", "--ros-args", *parameters]
        self._joints, limits = contract.model.commanded_joints, contract.site.limits
        self._middle = [(limits[joint].lower + limits[joint].upper) / 2 for joint in self._joints]
        self._widest = max(contract.site.controllers, key=lambda controller: len(controller.joints))
        self._pose = np.array([self._middle[self._joints.index(joint)] for joint in self._widest.joints])
        self.arrived = f"{self._widest.name}/joint_trajectory"
        self.sent = node.create_publisher(JointTrajectory, f"wanted/{self.arrived}", 10)
        for controller in contract.site.controllers:  # all of them must be listened to
            if controller is not self._widest:
                node.create_subscription(JointTrajectory, f"{controller.name}/joint_trajectory", lambda _: None, 1)
        self._states = node.create_publisher(JointState, "joint_states", 10)
        self._open = node.create_client(Trigger, "safety_gate/open")
        self._begin_ns = 0

    def ready(self, spin: Callable[[Callable[[], bool]], None]) -> None:
        spin(lambda: self._open.service_is_ready() and self._states.get_subscription_count() > 0)
        opened = False
        while not opened:
            answer = self._open.call_async(Trigger.Request())
            spin(answer.done)
            opened = answer.result().success
        self._begin_ns = self.node.get_clock().now().nanoseconds

    def surround(self) -> None:
        message = JointState(name=self._joints, position=self._middle)
        message.header.stamp = self.node.get_clock().now().to_msg()
        self._states.publish(message)

    def number(self, message: JointTrajectory) -> float:
        return message.points[-1].positions[0]

    def message(self) -> JointTrajectory:
        """Stamped, so that a message that was late on its way still means the same motion."""
        now = self.node.get_clock().now()
        message = motion_ahead(self._widest, self._pose, now.nanoseconds, self._begin_ns)
        message.header.stamp = now.to_msg()
        return message


class BridgeSubject:
    """Commands of ros2_control for all twenty joints; what is waited for are the arms' set points."""

    def __init__(self, contract: Contract, file: Path, node: Node) -> None:
        self.node, self.kind, self.status = node, JointState, "bridge/status"
        units = [f"{name}:={unit}" for name, unit in _unit_parameters().items()]
        parameters = [part for value in (f"contract:={file}", *units) for part in ("-p", value)]
        self.command = [
            sys.executable,
            "-m",
            "agibot_bringup.benchmarks.added_latency",
            "bridge_node",
            "--ros-args",
            *parameters,
        ]
        self._table = unit_table(UNITS)
        limits = contract.site.limits
        joints = [entry.joint for entries in self._table.values() for entry in entries]
        self._middle = {joint: (limits[joint].lower + limits[joint].upper) / 2 for joint in joints}
        self.arrived = COMMANDS[Group.ARMS][0]
        self.sent = node.create_publisher(JointState, "robot_joint_commands", COMMAND)
        self._reports = {group: node.create_publisher(JointState, topic, 1) for group, topic in REPORTS.items()}
        self._change = node.create_client(ChangeState, "bridge/change_state")
        self._first = self._table[Group.ARMS][0].joint
        self._cycle, self._pose = 0, dict(self._middle)

    def ready(self, spin: Callable[[Callable[[], bool]], None]) -> None:
        spin(self._change.service_is_ready)
        for transition in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE):
            changed = False
            while not changed:
                answer = self._change.call_async(ChangeState.Request(transition=Transition(id=transition)))
                spin(answer.done)
                changed = answer.result().success
            spin(lambda: all(report.get_subscription_count() > 0 for report in self._reports.values()))

    def surround(self) -> None:
        """Every group's report; the robot is where it was told to be."""
        for group, entries in self._table.items():
            raw = [entry.feedback.raw(self._pose[entry.joint]) for entry in entries]
            self._reports[group].publish(JointState(position=raw, velocity=[0.0] * len(raw)))

    def number(self, message: JointState) -> float:
        """The position of the first arm joint, in whatever message."""
        return message.position[list(message.name).index(self._first) if self._first in message.name else 0]

    def message(self) -> JointState:
        self._cycle += 1
        away = 0.02 * (1 - math.cos(2 * math.pi * self._cycle * PERIOD_NS / NS_PER_S / 3.0)) / 2 + 1e-8 * self._cycle
        self._pose = {j: p if j in (LEFT_GRIPPER, RIGHT_GRIPPER) else p + away for j, p in self._middle.items()}
        return JointState(name=list(self._pose), position=list(self._pose.values()))


def _unit_parameters() -> dict[str, str | float]:
    return {
        "head_unit": UNITS.head,
        "waist_pitch_unit": UNITS.waist_pitch,
        "lift_feedback_unit": UNITS.lift_feedback,
        "lift_command_unit": UNITS.lift_command,
        "gripper_feedback_open": UNITS.gripper_feedback[0],
        "gripper_feedback_closed": UNITS.gripper_feedback[1],
        "gripper_command_open": UNITS.gripper_command[0],
        "gripper_command_closed": UNITS.gripper_command[1],
    }


class PlainRobot:
    """The adapter of the bridge under measurement: every group reports and is told by a JointState."""

    def __init__(self, node: Node, hear: Hear) -> None:
        self._publishers = {g: node.create_publisher(JointState, topic, COMMAND) for g, (topic, _) in COMMANDS.items()}
        for group, topic in REPORTS.items():
            node.create_subscription(JointState, topic, partial(self._on_report, hear, group), 1)

    def _on_report(self, hear: Hear, group: Group, message: JointState) -> None:
        hear(group, list(message.position), list(message.velocity))

    def objection(self) -> str:
        return ""

    def poll(self) -> None: ...

    def send(self, group: Group, numbers: list[float]) -> None:
        self._publishers[group].publish(JointState(name=COMMANDS[group][1], position=numbers))

    def forget(self) -> None: ...

    def close(self) -> None: ...


class MeasuredBridge(Bridge):
    """The bridge, before a plain robot."""

    def _connect(self, values: object) -> PlainRobot:
        return PlainRobot(self, self._hear)


@dataclass
class Crossing:
    """When the messages of one way were sent, each known by a number in it, and how long they took [ns]."""

    under_way: dict[float, int] = field(default_factory=dict)
    took_ns: list[int] = field(default_factory=list)

    def start(self, number: float) -> None:
        self.under_way[round(number, 12)] = time.perf_counter_ns()

    def stop(self, number: float) -> None:
        """A message that was not started, or sent again, says nothing."""
        if (sent_ns := self.under_way.pop(round(number, 12), None)) is not None:
            self.took_ns.append(time.perf_counter_ns() - sent_ns)


def measure(which: str, file: Path, seconds: float) -> dict[str, Any]:
    """Both ways' latencies, what the node adds, and its CPU time for each message.

    Raises:
        RuntimeError: the node ended, messages did not come to pass, or hardly any came through.
    """
    os.environ["ROS_DOMAIN_ID"] = str(random.SystemRandom().randint(1, 100))
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    rclpy.init()
    node, executor = rclpy.create_node("added_latency"), quickest_executor()
    executor.add_node(node)
    subject: Subject = {"gate": GateSubject, "bridge": BridgeSubject}[which](load_contract(file), file, node)
    through, direct = Crossing(), Crossing()
    straight = node.create_publisher(subject.kind, "added_latency/direct", 10)
    for watch, topic in ((direct, "added_latency/direct"), (through, subject.arrived)):
        node.create_subscription(subject.kind, topic, lambda m, watch=watch: watch.stop(subject.number(m)), 10)
    said = [""]
    node.create_subscription(String, subject.status, lambda message: said.append(message.data), LATCHED)
    process = subprocess.Popen(subject.command, stdout=subprocess.DEVNULL)
    try:
        _get_ready(subject, process, executor)
        begun_s = None
        for cycle in range(SETTLE + round(seconds * NS_PER_S / PERIOD_NS)):
            if cycle == SETTLE:
                through.__init__()
                direct.__init__()
                begun_s, load = _cpu_s(process.pid), os.getloadavg()[0]
            message = subject.message()
            subject.surround()
            for watch, publisher in ((through, subject.sent), (direct, straight)):
                watch.start(subject.number(message))
                publisher.publish(message)
                _spin_until(executor, time.perf_counter_ns() + PERIOD_NS // 2)
        cpu_s = _cpu_s(process.pid) - begun_s
    finally:
        process.terminate()
        process.wait()
        executor.shutdown()
        node.destroy_node()
        rclpy.shutdown()
    if len(through.took_ns) < len(through.under_way):
        raise RuntimeError(
            f"{len(through.took_ns)} messages came through, {len(through.under_way)} were lost; "
            f"the node says: {said[-1]}"
        )
    ways = {"direct": _percentiles(direct.took_ns), "through": _percentiles(through.took_ns)}
    return {
        "node": which,
        "messages": len(through.took_ns),
        "lost": len(through.under_way),
        "direct_ms": ways["direct"],
        "through_ms": ways["through"],
        "added_ms": {key: round(ways["through"][key] - ways["direct"][key], 3) for key in ways["direct"]},
        "node_cpu_ms": round(1e3 * cpu_s / (len(through.took_ns) + len(through.under_way)), 3),
        "load_average": [round(load, 2), round(os.getloadavg()[0], 2)],
    }


def _get_ready(subject: Subject, process: subprocess.Popen, executor: Any) -> None:
    until_s = time.monotonic() + TIMEOUT_S

    def spin(condition: Callable[[], bool]) -> None:
        while not condition():
            if process.poll() is not None:
                raise RuntimeError(f"the node ended with status {process.returncode}")
            if time.monotonic() > until_s:
                raise RuntimeError(f"the node let nothing pass within {TIMEOUT_S:g} s")
            subject.surround()
            _spin_until(executor, time.perf_counter_ns() + PERIOD_NS)

    subject.ready(spin)


def _spin_until(executor: Any, instant_ns: int) -> None:
    """At least once, however late it is."""
    executor.spin_once(timeout_sec=0.0)
    while (left_ns := instant_ns - time.perf_counter_ns()) > 0:
        executor.spin_once(timeout_sec=left_ns / NS_PER_S)


def _cpu_s(pid: int) -> float:
    """CPU time of a process so far, all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _percentiles(nanoseconds: list[int]) -> dict[str, float]:
    values = np.percentile(np.array(nanoseconds) / 1e6, [50, 95, 99])
    return {name: round(float(value), 3) for name, value in zip(("p50", "p95", "p99"), values, strict=True)}


def main() -> None:
    if sys.argv[1:2] == ["bridge_node"]:
        run_bridge(MeasuredBridge)
        return
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("node", choices=["gate", "bridge"])
    parser.add_argument("contract", type=Path)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--json", action="store_true", help="one line of JSON instead of a table")
    given = parser.parse_args()
    found = measure(given.node, given.contract.resolve(), given.seconds)
    if given.json:
        print(json.dumps(found))
        return
    for way in ("direct_ms", "through_ms", "added_ms"):
        print(f"{way:11}", "  ".join(f"{name} {value:7.3f}" for name, value in found[way].items()))
    print(
        f"{found['messages']} messages through the {given.node}, {found['lost']} lost; its CPU time for each, with all"
    )
    print(f"else that it hears: {found['node_cpu_ms']} ms. Load average {found['load_average']}")


if __name__ == "__main__":
    main()
