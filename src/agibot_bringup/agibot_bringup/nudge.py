"""nudge: moves one joint a little and back, and says whether the robot did what it was told.

    ros2 run agibot_bringup nudge idx11_head_joint1 0.05              # rad (lift: m)

For the first day with a robot: units and signs of every joint, one at a time. The motion goes to the safety gate, on
wanted/joint_trajectory (remap it to the controller's topic to leave the gate out), as a smooth trajectory of four
seconds that names all joints of the controller and ends where it began. Ends with status 0 if joint_states showed the
joint going that way and that far, and no other joint moving along. Where it did not, what the gate said last is told
too.
"""

import argparse
import math
import sys
import time
from collections.abc import Callable

import rclpy
from builtin_interfaces.msg import Duration
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from rclpy.utilities import remove_ros_args
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from agibot_bringup.description import load_controllers
from dreamzero_policy.runtime.audience import Audience

DURATION_S, STEP_S, FIRST_POINT_S = 4.0, 1 / 30, 0.1
LARGEST = 0.2  # rad, m: a check, not a motion
CONNECT_S = 10.0
FOLLOWED = 0.8  # of the way
STILL = 0.01  # rad, m: another joint that moves more was moved along
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


def there_and_back(joints: tuple[str, ...], start: dict[str, float], joint: str, amount: float) -> JointTrajectory:
    """The joint out by `amount` and back, everything else where it is."""
    message = JointTrajectory(joint_names=list(joints))
    steps = round(DURATION_S / STEP_S)
    for step in range(steps + 1):
        phase = 2 * math.pi * step / steps
        offset, speed = amount * (1 - math.cos(phase)) / 2, amount * math.pi * math.sin(phase) / DURATION_S
        after_s = FIRST_POINT_S + step * STEP_S
        message.points.append(
            JointTrajectoryPoint(
                positions=[start[name] + (offset if name == joint else 0.0) for name in joints],
                velocities=[speed if name == joint and 0 < step < steps else 0.0 for name in joints],
                time_from_start=Duration(sec=int(after_s), nanosec=round(after_s % 1 * 1e9)),
            )
        )
    return message


class Nudge(Node):
    """Watches joint_states and the gate while one trajectory is followed."""

    def __init__(self, joint: str, amount: float, connect_s: float = CONNECT_S) -> None:
        super().__init__("nudge")
        self._joint, self._amount, self._connect_s = joint, amount, connect_s
        self._joints = next(joints for joints in load_controllers().values() if joint in joints)
        self._now: dict[str, float] = {}
        self._farthest: dict[str, float] = {}
        self._start: dict[str, float] | None = None
        self._gate_said = ""
        self._publisher = self.create_publisher(JointTrajectory, "wanted/joint_trajectory", 1)
        self.create_subscription(JointState, "joint_states", self._on_states, qos_profile_sensor_data)
        self._gate = self.create_subscription(String, "safety_gate/status", self._on_gate, LATCHED)

    def run(self) -> tuple[bool, str]:
        """Whether the robot did it, and a sentence for a person."""
        topic = self._publisher.topic_name
        if not self._spin_until(lambda: set(self._joints) <= set(self._now), self._connect_s):
            return False, f"joint_states do not show {', '.join(set(self._joints) - set(self._now))}"
        audience = Audience.of(self, self._publisher)
        if not self._spin_until(lambda: audience.plays(time.monotonic_ns()), self._connect_s):
            return (
                False,
                f"nobody listens on {topic}: start the safety gate, or remap the topic to the controller's own",
            )
        self._start = dict(self._now)
        self._publisher.publish(there_and_back(self._joints, self._start, self._joint, self._amount))
        self._spin_until(lambda: False, FIRST_POINT_S + DURATION_S + 1.0)
        return self._verdict()

    def _verdict(self) -> tuple[bool, str]:
        moved = self._farthest.get(self._joint, 0.0)
        others = {name: far for name, far in self._farthest.items() if name != self._joint and abs(far) > STILL}
        said = f"{self._joint} was told {self._amount:+.4f} and went {moved:+.4f}"
        if abs(moved) < STILL * min(1.0, abs(self._amount) / STILL) / 2:
            return False, f"{said}: it did not move. {self._gate_word()}. Is the bridge active?"
        if moved * self._amount < 0:
            return False, f"{said}: THE WRONG WAY. Stop, and look at reversed_joints or the gripper's ends"
        if others:
            listed = ", ".join(f"{name} {far:+.4f}" for name, far in sorted(others.items()))
            return False, f"{said}, but others moved along: {listed}. Stop, and look at the order of the joints"
        if not FOLLOWED <= moved / self._amount <= 2 - FOLLOWED:
            return False, f"{said}: not that far. Stop, and look at the unit. {self._gate_word()}"
        return True, f"{said}: as it should"

    def _gate_word(self) -> str:
        topic = self._gate.topic_name
        return f"{topic} says: {self._gate_said}" if self._gate_said else f"Nothing is heard on {topic}"

    def _on_gate(self, message: String) -> None:
        self._gate_said = message.data

    def _on_states(self, message: JointState) -> None:
        self._now |= dict(zip(message.name, message.position, strict=True))
        for name, start in (self._start or {}).items():
            away = self._now[name] - start
            if abs(away) > abs(self._farthest.get(name, 0.0)):
                self._farthest[name] = away

    def _spin_until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        until = time.monotonic() + timeout_s
        while not condition() and time.monotonic() < until:
            rclpy.spin_once(self, timeout_sec=0.05)
        return condition()


def main() -> int:
    """Parse, move, report."""
    parser = argparse.ArgumentParser(prog="nudge", description="Moves one joint a little and back.")
    joints = [joint for joints in load_controllers().values() for joint in joints]
    parser.add_argument("joint", choices=joints, metavar="JOINT", help="name in the URDF")
    parser.add_argument("amount", type=float, help=f"rad (lift: m), up to {LARGEST:g} either way")
    parser.add_argument("--wait-s", type=float, default=CONNECT_S, help="for joint states, and again for the gate")
    arguments = parser.parse_args(remove_ros_args(sys.argv)[1:])
    if not 0 < abs(arguments.amount) <= LARGEST:
        parser.error(f"amount is {arguments.amount:g}, expected up to {LARGEST:g} either way and not 0")
    rclpy.init()
    node = Nudge(arguments.joint, arguments.amount, arguments.wait_s)
    try:
        good, sentence = node.run()
    except (KeyboardInterrupt, ExternalShutdownException):
        return 1
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
    print(sentence, file=sys.stdout if good else sys.stderr)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
