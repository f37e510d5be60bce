"""What the bridge adds to a command on its way: python -m agibot_bringup.bridge.bench CONTRACT [COUNT]

ros2_control commands all twenty joints, 100 times a second in the bridge's time, and the robot reports as often. Timed
is everything between the bytes of the command that come and the bytes of the set points that leave, five messages; and
the same for the arms' report on its way back. The transport on either side is the middleware's.
"""

import math
import sys
from pathlib import Path

from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import JointState

from agibot_bringup.benchmarks.stopwatch import Stopwatch
from agibot_bringup.bridge.guard import NS_PER_S, Guard, Settings
from agibot_bringup.bridge.topics import COMMANDS
from agibot_bringup.bridge.units import LEFT_GRIPPER, RIGHT_GRIPPER, Group, Units, unit_table
from dreamzero_policy.runtime.contract import Contract, load_contract

PERIOD_NS = NS_PER_S // 100
AMPLITUDE, PERIOD_S = 0.02, 3.0  # [rad, m] of the motion, and how long it takes there and back
UNITS = Units("rad", "rad", "m", "m", (35.0, 120.0), (0.0, 120.0))
SETTINGS = Settings(
    period_s=0.01,
    feedback_timeout_s=0.2,
    command_timeout_s=0.1,
    max_step_rad=0.2618,
    max_step_m=0.05,
    max_first_step_rad=0.05,
    max_first_step_m=0.01,
    range_tolerance_rad=0.05,
    range_tolerance_m=0.01,
)


def added(contract: Contract, count: int) -> tuple[Stopwatch, Stopwatch]:
    """The time from bytes to bytes of `count` commands, all of which pass, and of as many reports of the arms.

    Raises:
        RuntimeError: a command was not sent; the text says why.
    """
    table = unit_table(UNITS)
    guard = Guard(table, {j: (limit.lower, limit.upper) for j, limit in contract.site.limits.items()}, SETTINGS)
    middle = {joint: sum(guard.range_of(joint)) / 2 for joint in guard.joints}
    commands, reports, now_ns = Stopwatch(), Stopwatch(), NS_PER_S
    for cycle in range(count + 1):
        now_ns += PERIOD_NS
        away = AMPLITUDE * (1 - math.cos(2 * math.pi * cycle * PERIOD_NS / NS_PER_S / PERIOD_S)) / 2
        pose = {j: p if j in (LEFT_GRIPPER, RIGHT_GRIPPER) else p + away for j, p in middle.items()}
        for group, entries in table.items():
            raw = [entry.feedback.raw(pose[entry.joint]) for entry in entries]
            if group is not Group.ARMS:
                guard.hear_feedback(group, raw, [0.0] * len(raw), now_ns)
                continue
            report = serialize_message(JointState(position=raw, velocity=[0.0] * len(raw)))
        _back(guard, report, now_ns, reports)
        if cycle == 0:
            reports = Stopwatch()
            if reason := guard.activate(now_ns):
                raise RuntimeError(f"not activated: {reason}")
            continue
        command = serialize_message(JointState(name=list(pose), position=list(pose.values())))
        _through(guard, command, now_ns, commands)
    return commands, reports


def _through(guard: Guard, command: bytes, now_ns: int, watch: Stopwatch) -> None:
    with watch:
        message = deserialize_message(command, JointState)
        sent = [
            serialize_message(JointState(name=COMMANDS[group][1], position=numbers))
            for group, numbers in guard.hear_command(message.name, message.position, now_ns)
        ]
    if len(sent) != len(Group):
        raise RuntimeError(f"{len(sent)} of {len(Group)} groups were sent: {guard.stopped}")


def _back(guard: Guard, report: bytes, now_ns: int, watch: Stopwatch) -> None:
    with watch:
        message = deserialize_message(report, JointState)
        guard.hear_feedback(Group.ARMS, list(message.position), list(message.velocity), now_ns)
        if (states := guard.states(now_ns)) is not None:
            names, positions, speeds = states
            serialize_message(JointState(name=names, position=positions, velocity=speeds))


def main() -> None:
    both = added(load_contract(Path(sys.argv[1])), int(sys.argv[2]) if len(sys.argv) > 2 else 2000)
    for what, watch in zip(("commands", "reports"), both, strict=True):
        print(watch.told(what))


if __name__ == "__main__":
    main()
