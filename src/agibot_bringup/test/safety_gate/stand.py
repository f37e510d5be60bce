"""The gate's process between a source and a robot, over real DDS."""

from functools import partial
from pathlib import Path

import numpy as np
from builtin_interfaces.msg import Duration
from diagnostic_msgs.msg import DiagnosticArray
from sensor_msgs.msg import JointState, Joy
from std_msgs.msg import Bool
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from agibot_bringup.safety_gate.trajectory import Received
from dreamzero_policy.runtime.command import Command
from dreamzero_policy.runtime.contract import load_contract
from dreamzero_policy.runtime.limits import Limits
from dreamzero_policy.runtime.observation import NS_PER_S

from ..processes import Processes
from .scene import ARMS, wave

CONTRACT_FILE = Path(__file__).parents[4] / "config" / "agibot_g1.yaml"
CONTRACT = load_contract(CONTRACT_FILE)
CONTROLLERS = CONTRACT.site.controllers
ARM = CONTROLLERS[ARMS]
BUTTON = 4


class Stand(Processes):
    """The gate's process; a robot that does what it is told; a source, a joystick and an emergency stop."""

    def __init__(self, *parameters: str) -> None:
        super().__init__()
        self.process = self.start("agibot_bringup.safety_gate.node", f"contract:={CONTRACT_FILE}", *parameters)
        limits = CONTRACT.site.limits
        middle = {c.name: [(limits[j].lower + limits[j].upper) / 2 for j in c.joints] for c in CONTROLLERS}
        self.commands = {name: Command(positions, self.now_ns()) for name, positions in middle.items()}
        self.sent: list[tuple[str, JointTrajectory]] = []
        self.statuses = self.statuses_of("safety_gate")
        self.diagnoses: list[DiagnosticArray] = []
        self.held = True
        self.controllers = {
            c.name: self.node.create_subscription(
                JointTrajectory, f"{c.name}/joint_trajectory", partial(self._follow, c.name), 10
            )
            for c in CONTROLLERS
        }
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self.diagnoses.append, 10)
        self.source = self.node.create_publisher(JointTrajectory, f"wanted/{ARM.name}/joint_trajectory", 10)
        self.estop = self.node.create_publisher(Bool, "estop", 10)  # the default quality of service
        self._joints = self.node.create_publisher(JointState, "joint_states", 10)
        self._joy = self.node.create_publisher(Joy, "joy", 10)
        self.node.create_timer(0.01, self._feel)
        self.node.create_timer(0.05, self._hold)

    def _follow(self, name: str, message: JointTrajectory) -> None:
        self.sent.append((name, message))
        after_ns = [p.time_from_start.sec * NS_PER_S + p.time_from_start.nanosec for p in message.points]
        own = self.commands[name].take(
            self.now_ns(), after_ns, [p.positions for p in message.points], [p.velocities for p in message.points]
        )
        controller = next(controller for controller in CONTROLLERS if controller.name == name)
        judgement = Limits(controller.joints, CONTRACT.site.limits).judge(own)
        assert judgement, judgement.reason
        assert not any(message.points[-1].velocities) and message.header.stamp.sec == 0

    def _feel(self) -> None:
        message = JointState()
        message.header.stamp = self.node.get_clock().now().to_msg()
        for controller in CONTROLLERS:
            message.name += list(controller.joints)
            message.position.extend(self.commands[controller.name].plan.sample([self.now_ns()])[0][0].tolist())
        self._joints.publish(message)

    def _hold(self) -> None:
        buttons = [0] * (BUTTON + 1)
        buttons[BUTTON] = int(self.held)
        self._joy.publish(Joy(buttons=buttons))

    def arms(self) -> np.ndarray:
        """Where they are told to be."""
        return self.commands[ARM.name].plan.sample([self.now_ns()])[0][0]

    def want(self, amplitude: float, seconds: float = 2.0) -> None:
        """The arms there and back, from where they are told to be."""
        self.source.publish(as_message(wave(ARM.joints, self.arms(), amplitude, seconds)))

    def speed(self) -> float:
        return float(np.abs(self.commands[ARM.name].plan.sample([self.now_ns()])[1]).max())

    def left_s(self) -> float:
        """Motion that is left for the arms [s]."""
        return max(0.0, (self.commands[ARM.name].rest_ns - self.now_ns()) / NS_PER_S)

    def ask(self, service: str) -> Trigger.Response:
        return super().ask(f"safety_gate/{service}")

    def connect(self) -> None:
        self.spin_until(
            lambda: (
                bool(self.statuses)
                and self.source.get_subscription_count() == 1
                and self.estop.get_subscription_count() == 1
            )
        )
        # Whether the gate sees all controllers, the joints and the button is what it is asked next.
        self.spin_until(lambda: any(not self._interlocks(array) for array in self.diagnoses[-1:]))
        self.spin(0.35)  # the robot has stood for long enough

    def _interlocks(self, array: DiagnosticArray) -> str:
        return next(pair.value for pair in array.status[0].values if pair.key == "interlocks")

    def told(self, key: str) -> str:
        """A value of the next diagnostics; empty where they have none."""
        known = len(self.diagnoses)
        self.spin_until(lambda: len(self.diagnoses) > known)
        return next((pair.value for pair in self.diagnoses[-1].status[0].values if pair.key == key), "")


def as_message(received: Received) -> JointTrajectory:
    """The message that is received as this. Times must fit into one: 32 bits of seconds."""
    message = JointTrajectory(joint_names=received.joints)
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(received.stamp_ns, NS_PER_S)
    for point in received.points:
        after = Duration(sec=point.after_ns // NS_PER_S, nanosec=point.after_ns % NS_PER_S)
        values = {name: list(getattr(point, name)) for name in ("positions", "velocities", "accelerations", "effort")}
        message.points.append(JointTrajectoryPoint(time_from_start=after, **values))
    return message
