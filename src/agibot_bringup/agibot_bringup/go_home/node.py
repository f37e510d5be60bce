"""go_home: brings the robot to its home pose and ends. Exit status 0 once it stands there, 1 with a reason otherwise.

    joint_states ──► go_home ──► <controller>/joint_trajectory, or wanted/joint_trajectory of the safety gate

It moves only a robot that stands still, and goes on only while joint states come and no emergency stop is heard. A
signal, a stop and silence bring the robot to rest inside its limits. All names are relative.
"""

import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import rclpy
from ament_index_python.packages import get_package_share_directory
from rcl_interfaces.msg import FloatingPointRange, ParameterDescriptor
from rclpy.duration import Duration
from rclpy.exceptions import ParameterException
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool
from trajectory_msgs.msg import JointTrajectory

from agibot_bringup.description import load_home
from agibot_bringup.executors import begin
from agibot_bringup.go_home.motion import NoWay, braked, legs
from agibot_bringup.safety_gate.messages import Outgoing
from agibot_bringup.standing import Standing
from dreamzero_policy.runtime.audience import Audience
from dreamzero_policy.runtime.contract import Contract, ContractError, Controller, load_contract
from dreamzero_policy.runtime.embodiment import Floats
from dreamzero_policy.runtime.emergency_stop import EmergencyStop
from dreamzero_policy.runtime.faults import Fault
from dreamzero_policy.runtime.geometry import KeepsClearOfItself, checks_of, installed
from dreamzero_policy.runtime.limits import Limits
from dreamzero_policy.runtime.observation import NS_PER_S
from dreamzero_policy.runtime.outputs import OUTPUTS, topics
from dreamzero_policy.runtime.plan import Plan

NOT_HEARD = "no message on estop, and require_estop is set"
DISCOVERY_S = 1.0  # behind the first listeners, for the others: what lookouts and recorders do not hear is not there
QUEUED = 40  # callbacks at most that wait after a time in which none was run
SENT = Duration(seconds=1.0)
ARRIVE_S = 3.0  # after a leg's end the joints must be where it ends within so long

# name: (default, description, allowed (lowest, highest) or None)
PARAMETERS = {
    "contract": (
        "",
        "Path of the contract with joints, limits and controllers; empty takes config/agibot_g1.yaml of the installed "
        "stack.",
        None,
    ),
    "output": (
        "controllers",
        "controllers: on <controller>/joint_trajectory; gate: through the safety gate, on wanted/joint_trajectory.",
        None,
    ),
    "speed_share": (0.3, "Share of the fastest that the limits allow.", (0.05, 1.0)),
    "grippers": (True, "Open the grippers too; false leaves them and what they hold as they are.", None),
    "clearance_m": (
        0.01,
        "Refuse a way on which parts of the robot come closer to each other [m]; 0 does not look. Needs the geometry "
        "of this robot (package agibot_twin).",
        (0.0, 0.2),
    ),
    "require_estop": (
        False,
        "Nothing moves before the topic estop was heard to be released, and its silence is a stop.",
        None,
    ),
    "estop_timeout_s": (0.5, "With require_estop: longest silence on estop [s].", (0.05, 60.0)),
    "max_trajectory_s": (
        10.0,
        "A longer way is cut into legs [s]. Not above the gate's. So long the robot moves on if this node is killed.",
        (2.0, 600.0),
    ),
    "wait_s": (10.0, "Longest wait for joint states, controllers and a robot at rest [s].", (0.5, 600.0)),
}


class Stopped(Exception):  # noqa: N818 (an outcome)
    """The robot is not at home; the text says why."""


class GoHome(Node):
    """See the module's docstring."""

    def __init__(self, interrupted: threading.Event) -> None:
        super().__init__("go_home")
        for name, (default, description, allowed) in PARAMETERS.items():
            descriptor = ParameterDescriptor(name=name, description=description, read_only=True)
            if allowed is not None:
                descriptor.floating_point_range = [FloatingPointRange(from_value=allowed[0], to_value=allowed[1])]
            self.declare_parameter(name, default, descriptor)
        self._interrupted, self._estop = interrupted, EmergencyStop()
        self._demand_estop()
        path = self._value("contract") or Path(get_package_share_directory("dreamzero")) / "config" / "agibot_g1.yaml"
        self._contract: Contract = load_contract(Path(path))
        self._joints = self._contract.model.commanded_joints
        self._limits = Limits(self._joints, self._contract.site.limits, self._checks())
        self._braking = Limits(self._joints, self._contract.site.limits)  # near the robot's shape, resting is best
        self._controllers = [
            controller
            for controller in self._contract.site.controllers
            if self._value("grippers") or not set(controller.joints) & set(self._contract.site.grippers)
        ]
        self._senders = self._create_senders()
        self._audiences = {sender.topic_name: Audience.of(self, sender) for _, sender in self._senders}
        self._positions: Floats | None = None
        self._heard_by_all_s = np.inf
        self._heard_s, self._standing = -np.inf, Standing(self._contract, self._joints)
        sensor = QoSProfile(depth=20, reliability=ReliabilityPolicy.BEST_EFFORT)
        self.create_subscription(JointState, self._contract.site.joint_states.topic, self._on_joint_states, sensor)
        self.create_subscription(Bool, "estop", self._on_estop, 10)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self)

    def _value(self, name: str) -> bool | float | str:
        return self.get_parameter(name).value

    def _checks(self) -> Sequence[Callable]:
        clearance_m = self._value("clearance_m")
        own = [KeepsClearOfItself(installed(self._contract), clearance_m)] if clearance_m > 0 else []
        return [*checks_of(self._contract), *own]

    def _create_senders(self) -> list[tuple[Controller, rclpy.publisher.Publisher]]:
        """What goes out where: to each controller its joints, to the gate all of them in one message."""
        if self._value("output") not in OUTPUTS:
            raise Stopped(f"parameter output is {self._value('output')!r}, expected one of {', '.join(OUTPUTS)}")
        goes = topics(self._controllers, self._value("output"))
        return [(to, self.create_publisher(JointTrajectory, topic, 1)) for to, topic in goes.items()]

    # Heard

    def _on_joint_states(self, message: JointState) -> None:
        positions = dict(zip(message.name, message.position, strict=False))
        if not set(self._joints) <= set(positions):
            return
        self._positions = np.array([positions[joint] for joint in self._joints])
        self._heard_s = time.monotonic()
        self._standing.hear(self._positions, time.monotonic_ns())

    def _demand_estop(self) -> None:
        """From now on let it be heard, if it must be."""
        self._estop.demand(self._value("estop_timeout_s") if self._value("require_estop") else None)

    def _on_estop(self, message: Bool) -> None:
        self._estop.hear(message.data)

    # Done

    def run(self) -> str:
        """Go home. What was done, in words.

        Raises:
            Stopped: the robot is not there.
        """
        self._wait_for(self._ready, self._value("wait_s"))
        home = self._home()
        try:
            way = legs(self._positions, home, self._limits, self._value("speed_share"), self._value("max_trajectory_s"))
        except NoWay as reason:
            raise Stopped(f"the straight way home is not open: {reason}. Move the robot nearer to home") from reason
        self._demand_estop()  # nothing was heard while the way was looked for
        self._wait_for(self._ready, self._value("wait_s"))
        for leg in way:
            self._follow(leg)
        seconds = sum(leg.end_ns for leg in way) / NS_PER_S
        return f"at home, {len(way)} legs, {seconds:.1f} s of motion" if way else "at home already"

    def _home(self) -> Floats:
        """Of every commanded joint; one that is not moved is where it is."""
        pose, moved = load_home(), {joint for controller in self._controllers for joint in controller.joints}
        if unknown := sorted(moved - set(pose)):
            raise Stopped(f"no home position is known of {unknown}")
        return np.array(
            [pose[j] if j in moved else at for j, at in zip(self._joints, self._positions.tolist(), strict=True)]
        )

    def _ready(self) -> str:
        """What is still missing; empty if nothing is."""
        if (stop := self._estop_trouble()) == NOT_HEARD:
            return stop
        if stop:
            raise Stopped(stop)
        if self._positions is None:
            return f"no {self._contract.site.joint_states.topic} with all of the contract's joints"
        if alone := [topic for topic, audience in self._audiences.items() if not audience.plays(time.monotonic_ns())]:
            self._heard_by_all_s = np.inf
            return f"nobody who plays it listens on {', '.join(alone)}"
        self._heard_by_all_s = min(self._heard_by_all_s, time.monotonic())
        if time.monotonic() - self._heard_by_all_s < DISCOVERY_S:
            return "some who listen may not be discovered yet"
        if unrest := self._standing.unrest(time.monotonic_ns()):
            return f"the robot does not stand: {unrest}"
        return ""

    def _estop_trouble(self) -> str:
        """Why the robot must not move now, NOT_HEARD among the reasons; empty if it may."""
        stop = self._estop.trouble()
        if stop is None:
            return ""
        if stop.fault is Fault.ESTOP:
            return "estop is pressed"
        if not self._estop.heard:
            return NOT_HEARD
        return f"estop was silent for more than {self._value('estop_timeout_s'):g} s (estop_timeout_s)"

    def _wait_for(self, missing: Callable[[], str], wait_s: float) -> None:
        until = time.monotonic() + wait_s
        for _ in range(QUEUED):
            self._executor.spin_once(timeout_sec=0.0)
        while what := missing():
            if self._interrupted.is_set():
                raise Stopped("interrupted")
            if time.monotonic() > until:
                raise Stopped(f"{what} within {wait_s:g} s")
            self._executor.spin_once(timeout_sec=0.05)

    def _follow(self, leg: Plan) -> None:
        trouble, passed_ns, read_ns = "", 0, self._now_ns()
        self._send(leg.after(int(leg.knots_ns[1])), 0)
        while passed_ns < leg.end_ns:
            trouble = trouble or self._trouble()
            if trouble and (rest := braked(leg, self._braking, passed_ns)) is not None:
                self._send(rest, passed_ns)
                for _, sender in self._senders:
                    sender.wait_for_all_acked(SENT)  # a message may be lost that a node leaves behind when it ends
                raise Stopped(f"{trouble}; the robot comes to rest on its way")
            self._executor.spin_once(timeout_sec=0.05)
            before_ns, read_ns = read_ns, self._now_ns()
            passed_ns += max(0, read_ns - before_ns)
            if read_ns < before_ns:
                trouble = trouble or "simulated time was set back"
        if trouble:
            raise Stopped(f"{trouble}; the robot is at the end of this leg")
        self._wait_for(lambda: self._away(leg.positions[-1]), ARRIVE_S)

    def _trouble(self) -> str:
        if self._interrupted.is_set():
            return "interrupted"
        if stop := self._estop_trouble():
            return stop
        silent_s, allowed_s = time.monotonic() - self._heard_s, self._contract.site.tolerances.silence_s
        return (
            f"joint states are silent for {silent_s:.2f} s, allowed are {allowed_s:g}" if silent_s > allowed_s else ""
        )

    def _away(self, goal: Floats) -> str:
        """The joint that is farthest from where it should be, beyond the contract's tolerance; empty if none is."""
        away = np.abs(self._positions - goal)
        joint = int(np.argmax(away))
        if away[joint] <= self._contract.site.tolerances.tracking:
            return ""
        through = "; safety_gate/status says why" if self._value("output") == "gate" else ""
        return f"{self._joints[joint]} is at {self._positions[joint]:.4f}, not at {goal[joint]:.4f}{through}"

    def _send(self, plan: Plan, now_ns: int) -> None:
        for controller, sender in self._senders:
            columns = [self._joints.index(joint) for joint in controller.joints]
            part = Plan(plan.knots_ns, plan.positions[:, columns], plan.velocities[:, columns])
            sender.publish(Outgoing(controller).message(part, now_ns))

    def _now_ns(self) -> int:
        """By which legs are timed: simulated time, or one that nobody sets."""
        clock = self.get_clock()
        return clock.now().nanoseconds if clock.ros_time_is_active else time.monotonic_ns()

    def close(self) -> None:
        self._executor.shutdown()
        self.destroy_node()


def main() -> int:
    """Go home once."""
    interrupted, node = begin(), None
    try:
        node = GoHome(interrupted)
        print(f"go_home: {node.run()}", flush=True)
        return 0
    except (Stopped, ContractError, ParameterException) as error:
        print(f"go_home: {error}", file=sys.stderr)
        return 1
    finally:
        if node is not None:
            node.close()
        rclpy.try_shutdown()


if __name__ == "__main__":
    sys.exit(main())
