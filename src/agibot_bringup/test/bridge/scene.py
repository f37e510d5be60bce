"""A guard between ros2_control and a robot that reports where it is. Time is moved by hand."""

import math

from agibot_bringup.bridge.guard import NS_PER_S, Guard
from agibot_bringup.bridge.units import LEFT_GRIPPER, RIGHT_GRIPPER, Group, Table

TICK_NS = NS_PER_S // 100
# rad and m; well inside every range, and the lift in no unit but m
POSE = {LEFT_GRIPPER: 0.6, RIGHT_GRIPPER: 0.6, "idx01_body_joint1": 0.41, "idx02_body_joint2": 0.3}


class Scene:
    """`sent` is all that reached the robot: (ns, group, numbers)."""

    def __init__(self, guard: Guard, table: Table) -> None:
        self.guard, self.table, self.ns = guard, table, NS_PER_S
        self.pose = {joint: POSE.get(joint, 0.1) for joint in guard.joints}
        self.sent: list[tuple[int, Group, list[float]]] = []
        self.silent: set[Group] = set()

    def report(self) -> None:
        """The robot says where it is."""
        for group, entries in self.table.items():
            if group not in self.silent:
                raw = [entry.feedback.raw(self.pose[entry.joint]) for entry in entries]
                self.guard.hear_feedback(group, raw, [0.0] * len(raw), self.ns)

    def tick(self, count: int = 1) -> None:
        """10 ms: the robot reports, the stream goes on."""
        for _ in range(count):
            self.ns += TICK_NS
            self.report()
            self.sent += [(self.ns, group, numbers) for group, numbers in self.guard.due(self.ns)]

    def command(self, **changes: float) -> list[Group]:
        """Every joint where it is but for `changes` (joint = rad or m); what was sent at once."""
        told = self.pose | changes
        out = self.guard.hear_command(list(told), list(told.values()), self.ns)
        self.sent += [(self.ns, group, numbers) for group, numbers in out]
        return [group for group, _ in out]

    def command_nothing(self) -> list[Group]:
        """What the hardware interface sends before a controller has taken the joints."""
        return [g for g, _ in self.guard.hear_command(list(self.pose), [math.nan] * len(self.pose), self.ns)]

    def active(self) -> "Scene":
        self.tick()
        assert self.guard.activate(self.ns) == ""
        return self
