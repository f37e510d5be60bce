"""Between JointTrajectory messages and the gate's own objects."""

from array import array

from builtin_interfaces.msg import Duration, Time
from rclpy.serialization import deserialize_message
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from agibot_bringup.safety_gate import cdr
from agibot_bringup.safety_gate.trajectory import Point, Received, ReceivedArrays
from dreamzero_policy.runtime.contract import Controller
from dreamzero_policy.runtime.observation import NS_PER_S
from dreamzero_policy.runtime.plan import Plan


def to_ns(stamp: Time | Duration) -> int:
    return stamp.sec * NS_PER_S + stamp.nanosec


def received(message: JointTrajectory) -> Received:
    """What the message says. Nothing is judged here."""
    points = [
        Point(to_ns(p.time_from_start), p.positions, p.velocities, p.accelerations, p.effort) for p in message.points
    ]
    return Received(message.joint_names, points, to_ns(message.header.stamp))


def received_bytes(data: bytes) -> Received | ReceivedArrays:
    """The same of a message's bytes.

    Raises:
        RuntimeError: they are no JointTrajectory.
    """
    found = cdr.read(data)
    return received(deserialize_message(data, JointTrajectory)) if found is None else found


class Outgoing:
    """Messages for one controller, in the form that moves alike on every ROS 2 distribution.

    The stamp is zero (begin now, from the present command), the first point lies in the future, every point has
    positions and velocities, the last one is at rest. Its points are used again: a message holds until the next one is
    written.
    """

    def __init__(self, controller: Controller) -> None:
        self._message = JointTrajectory(joint_names=list(controller.joints))
        self._points: list[JointTrajectoryPoint] = []

    def message(self, plan: Plan, now_ns: int) -> JointTrajectory:
        """The plan, told at `now_ns`."""
        while len(self._points) < len(plan.knots_ns):
            self._points.append(JointTrajectoryPoint())
        # array.array is the one type the generated setters take without looking at every number.
        for point, positions, velocities, after_ns in zip(
            self._points, plan.positions, plan.velocities, (plan.knots_ns - now_ns).tolist(), strict=False
        ):
            point.positions = array("d", positions.tobytes())
            point.velocities = array("d", velocities.tobytes())
            point.time_from_start.sec, point.time_from_start.nanosec = divmod(after_ns, NS_PER_S)
        self._message.points = self._points[: len(plan.knots_ns)]
        return self._message
