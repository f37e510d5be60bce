"""What the gate adds to a trajectory on its way: python -m agibot_bringup.safety_gate.bench CONTRACT [COUNT]

A source sends the controller with the most joints one trajectory after the other, 100 a second in the gate's time, each
of two seconds with a point every 1/30 s. Timed is everything between the bytes that come and the bytes that leave; the
transport on either side is the middleware's.
"""

import sys
from pathlib import Path

import numpy as np
from rclpy.serialization import serialize_message
from trajectory_msgs.msg import JointTrajectory

from agibot_bringup.benchmarks.stopwatch import Stopwatch
from agibot_bringup.safety_gate.cdr import Writer
from agibot_bringup.safety_gate.gate import Gate, Settings
from agibot_bringup.safety_gate.messages import Outgoing, received_bytes
from agibot_bringup.safety_gate.trajectory import Bounds
from dreamzero_policy.runtime.contract import Contract, Controller, load_contract
from dreamzero_policy.runtime.observation import NS_PER_S
from dreamzero_policy.runtime.plan import Plan

PERIOD_NS, STEP_NS, POINTS = NS_PER_S // 100, NS_PER_S // 30, 60
FIRST_POINT_NS = 50_000_000
AMPLITUDE, PERIOD_S = 0.02, 3.0  # [rad, m] of the motion, and how long it takes there and back
SETTINGS = Settings(
    engage_s=1.0,
    first_points_s=(0.05, 0.1, 0.17),
    bounds=Bounds(max_stamp_age_s=0.2, max_stamp_ahead_s=0.5, max_trajectory_s=10.0),
    source_timeout_s=1.0,
)


def added(contract: Contract, count: int) -> Stopwatch:
    """The time from bytes to bytes of each of `count` trajectories, all of which pass.

    Raises:
        RuntimeError: one was rejected; the text says why.
    """
    sent: list[bytes] = []

    writers = {controller.name: Writer(controller.joints) for controller in contract.site.controllers}

    def send(controller: Controller, plan: Plan, now_ns: int) -> None:
        sent.append(writers[controller.name].data(plan, now_ns))

    gate = Gate(contract, SETTINGS, None, send)
    joints, limits = contract.model.commanded_joints, contract.site.limits
    middle = [(limits[joint].lower + limits[joint].upper) / 2 for joint in joints]
    widest = max(contract.site.controllers, key=lambda controller: len(controller.joints))
    pose = np.array([middle[joints.index(joint)] for joint in widest.joints])
    now_ns = begin_ns = NS_PER_S
    gate.hear_joint_states(joints, middle, now_ns, now_ns)
    now_ns += NS_PER_S  # it has stood
    gate.hear_joint_states(joints, middle, now_ns, now_ns)
    gate.open(now_ns, now_ns)
    watch = Stopwatch()
    for _ in range(count):
        now_ns += PERIOD_NS
        gate.hear_joint_states(joints, middle, now_ns, now_ns)
        message = serialize_message(motion_ahead(widest, pose, now_ns, begin_ns))
        with watch:
            rejection = gate.take(received_bytes(message), now_ns, now_ns)
        if rejection is not None:
            raise RuntimeError(f"rejected, {rejection}")
    return watch


def motion_ahead(controller: Controller, pose: np.ndarray, now_ns: int, begin_ns: int) -> JointTrajectory:
    """The motion from now on. It ends abruptly, but slow enough for the limits."""
    knots_ns = now_ns + FIRST_POINT_NS + STEP_NS * np.arange(POINTS)
    t = (knots_ns - begin_ns)[:, None] / NS_PER_S
    turn = 2 * np.pi / PERIOD_S
    shift, speed = AMPLITUDE * (1 - np.cos(turn * t)) / 2, AMPLITUDE * turn * np.sin(turn * t) / 2
    plan = Plan(knots_ns, pose + shift, np.repeat(speed, len(pose), 1))
    plan.velocities[-1] = 0.0
    return Outgoing(controller).message(plan, now_ns)


def main() -> None:
    contract = load_contract(Path(sys.argv[1]))
    print(added(contract, int(sys.argv[2]) if len(sys.argv) > 2 else 2000).told(f"trajectories of {POINTS} points"))


if __name__ == "__main__":
    main()
