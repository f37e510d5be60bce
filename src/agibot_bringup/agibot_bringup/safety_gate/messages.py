"""Between JointTrajectory messages and the gate's own objects. Message packages only, no rclpy."""

from array import array

from builtin_interfaces.msg import Duration, Time
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from agibot_bringup.safety_gate.trajectory import Point, Received
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


def trajectory_message(controller: Controller, plan: Plan, now_ns: int) -> JointTrajectory:
    """A trajectory in the form that moves alike on every ROS 2 distribution.

    The stamp is zero (begin now, from the present command), the first point lies in the future, every point has
    positions and velocities, the last one is at rest.
    """
    # array.array is the one type the generated setters take without looking at every number.
    points = [
        JointTrajectoryPoint(
            positions=array("d", positions.tobytes()),
            velocities=array("d", velocities.tobytes()),
            time_from_start=Duration(sec=after_ns // NS_PER_S, nanosec=after_ns % NS_PER_S),
        )
        for positions, velocities, after_ns in zip(
            plan.positions, plan.velocities, (plan.knots_ns - now_ns).tolist(), strict=True
        )
    ]
    return JointTrajectory(joint_names=list(controller.joints), points=points)
