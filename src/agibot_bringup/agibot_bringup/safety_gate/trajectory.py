"""A trajectory as it came: is it one at all, which controllers is it for, and when is each of its points due?

What the limits say of it is judged later, in `channel.py`. Here it is rejected for what no limit knows of: lengths,
times, the stamp, the set of joints, an end in motion. Nothing is repaired: a message is taken whole or rejected whole.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray

from dreamzero_policy.runtime.chunk import Judgement, Verdict
from dreamzero_policy.runtime.contract import Controller
from dreamzero_policy.runtime.embodiment import Floats
from dreamzero_policy.runtime.observation import NS_PER_S
from dreamzero_policy.runtime.plan import SHORTEST_NS, Plan


class Reason(IntEnum):
    """Why a message did not pass. Numbers below 20 are the verdicts of dreamzero_msgs/ActionChunk, the others ours."""

    NOT_FINITE = Verdict.REJECTED_NOT_FINITE
    JOINT_SET = Verdict.REJECTED_JOINT_SET  # not all joints of one or more controllers, each once
    POSITION = Verdict.REJECTED_POSITION
    VELOCITY = Verdict.REJECTED_VELOCITY
    ACCELERATION = Verdict.REJECTED_ACCELERATION
    STEP = Verdict.REJECTED_STEP  # begins too far from what is commanded
    JERK = Verdict.REJECTED_JERK
    WORKSPACE = Verdict.REJECTED_WORKSPACE
    SELF_COLLISION = Verdict.REJECTED_SELF_COLLISION
    DURATION = Verdict.REJECTED_DURATION
    LATE = Verdict.REJECTED_LATE  # nothing of it is left to be executed
    CLOSED = 20
    NO_POINTS = 21
    LENGTHS = 22  # a point has not one value for each joint, or no velocities
    TIMES = 23  # of points: before the start, not rising, or too close
    STAMP = 24  # neither zero nor near the present
    ENDS_MOVING = 25


class Rejected(Exception):  # noqa: N818 (an answer to the sender)
    """A message that does not pass: the numbered reason, and a text with both values."""

    def __init__(self, reason: Reason, text: str) -> None:
        super().__init__(f"{reason.value} {reason.name.lower()}: {text}")
        self.reason, self.text = reason, text

    @classmethod
    def by(cls, judgement: Judgement) -> "Rejected":
        """What the limits said."""
        return cls(Reason(judgement.verdict), judgement.reason)


@dataclass(slots=True)
class Point:
    """A trajectory_msgs/JointTrajectoryPoint: rad and m, per s, per s². Not frozen, since a message has many."""

    after_ns: int  # the trajectory's start
    positions: Sequence[float]
    velocities: Sequence[float]
    accelerations: Sequence[float] = ()
    effort: Sequence[float] = ()


@dataclass(frozen=True)
class Received:
    """A trajectory_msgs/JointTrajectory. Stamp zero: it starts when it is received."""

    joints: Sequence[str]
    points: Sequence[Point] = field(repr=False)
    stamp_ns: int = 0

    @property
    def after_ns(self) -> NDArray[np.int64]:
        """When each point is due, from the trajectory's start [N]."""
        return np.array([point.after_ns for point in self.points], np.int64)

    def values(self) -> tuple[Floats, Floats]:
        """Positions and velocities [N, J].

        Accelerations and effort must be well-formed and are left out: what passes is the cubic through positions and
        velocities, and that is what is judged.

        Raises:
            Rejected: a point has not one value for each joint, or one that is not finite.
        """
        positions, velocities, _, _ = map(self._rows, ("positions", "velocities", "accelerations", "effort"))
        return positions, velocities

    def _rows(self, what: str) -> Floats:
        """One field of all points [N, J]; zeros where a point leaves out what it may leave out."""
        width, optional = len(self.joints), what in ("accelerations", "effort")
        rows = list(map(attrgetter(what), self.points))
        lengths = set(map(len, rows))
        if optional and lengths == {0}:
            return np.zeros((len(rows), width))
        if lengths != {width}:
            for index, row in enumerate(rows):
                if len(row) != width and not (optional and len(row) == 0):
                    hint = ": a controller would step in velocity at every point" if what == "velocities" else ""
                    raise Rejected(Reason.LENGTHS, f"point {index} has {len(row)} {what} for {width} joints{hint}")
            rows = [row if len(row) else [0.0] * width for row in rows]
        values = np.array(rows, np.float64)
        _require_finite(what, values, self.joints)
        return values


@dataclass(frozen=True, eq=False)
class ReceivedArrays:
    """The same where every point has positions and velocities of all joints, and nothing else."""

    joints: Sequence[str]
    after_ns: NDArray[np.int64]  # [N]
    positions: Floats  # [N, J]
    velocities: Floats
    stamp_ns: int

    def values(self) -> tuple[Floats, Floats]:
        """As :meth:`Received.values`."""
        _require_finite("positions", self.positions, self.joints)
        _require_finite("velocities", self.velocities, self.joints)
        return self.positions, self.velocities


def _require_finite(what: str, rows: Floats, joints: Sequence[str]) -> None:
    if not np.isfinite(rows).all():
        index, joint = np.argwhere(~np.isfinite(rows))[0]
        raise Rejected(Reason.NOT_FINITE, f"{what} of {joints[joint]} is {rows[index, joint]} in point {index}")


@dataclass(frozen=True)
class Bounds:
    """What a message may say about time."""

    max_stamp_age_s: float
    max_stamp_ahead_s: float
    max_trajectory_s: float  # from receipt to the last point


def wanted(
    received: Received | ReceivedArrays, controllers: Sequence[Controller], bounds: Bounds, now_ns: int
) -> list[tuple[Controller, Plan]]:
    """What each of the controllers that are meant is to do, as the cubics they interpolate, on the node's clock.

    Raises:
        Rejected: it is no trajectory for these controllers.
    """
    meant = _controllers_meant(received.joints, controllers)
    due_ns = _due(received, bounds, now_ns)
    positions, velocities = received.values()
    if velocities[-1].any():
        joint = int(np.argmax(np.abs(velocities[-1])))
        raise Rejected(
            Reason.ENDS_MOVING,
            f"the last point must be at rest, {received.joints[joint]} has velocity {velocities[-1, joint]:.4f}",
        )
    column = {joint: index for index, joint in enumerate(received.joints)}
    plans = []
    for controller in meant:
        columns = [column[joint] for joint in controller.joints]
        plans.append((controller, Plan(due_ns, positions.take(columns, 1), velocities.take(columns, 1))))
    return plans


def _controllers_meant(joints: Sequence[str], controllers: Sequence[Controller]) -> list[Controller]:
    """The controllers whose joints these are: all joints of each, in any order."""
    named = set(joints)
    meant = [controller for controller in controllers if not named.isdisjoint(controller.joints)]
    asked = {joint for controller in meant for joint in controller.joints}
    if len(named) == len(joints) and named == asked and named:
        return meant
    repeated = sorted(joint for joint, count in Counter(joints).items() if count > 1)
    raise Rejected(
        Reason.JOINT_SET,
        f"{len(joints)} joints named; unknown {sorted(named - asked)}, missing {sorted(asked - named)}, "
        f"repeated {repeated}: name every joint of one or more controllers once",
    )


def _due(received: Received | ReceivedArrays, bounds: Bounds, now_ns: int) -> NDArray[np.int64]:
    """When each point is due [N, ns]."""
    after_ns = received.after_ns
    if not len(after_ns):
        raise Rejected(Reason.NO_POINTS, "the trajectory has no points; to stop the robot close the gate")
    too_close = after_ns[1:] - after_ns[:-1] < SHORTEST_NS
    if after_ns[0] < 0 or too_close.any():
        at = 0 if after_ns[0] < 0 else int(np.argmax(too_close)) + 1
        raise Rejected(
            Reason.TIMES,
            f"time_from_start of point {at} is {after_ns[at] / NS_PER_S:.6f} s, of the one before it "
            f"{after_ns[max(at - 1, 0)] / NS_PER_S:.6f} s: they must rise from 0, by {SHORTEST_NS / NS_PER_S:g} s "
            "at least",
        )
    start_ns = received.stamp_ns or now_ns
    ahead_s = (start_ns - now_ns) / NS_PER_S
    if not -bounds.max_stamp_age_s <= ahead_s <= bounds.max_stamp_ahead_s:
        raise Rejected(
            Reason.STAMP,
            f"the stamp is {ahead_s:+.3f} s from now, allowed are zero and -{bounds.max_stamp_age_s:g} to "
            f"+{bounds.max_stamp_ahead_s:g} s",
        )
    due_ns = start_ns + after_ns
    if (lasts_s := (int(due_ns[-1]) - now_ns) / NS_PER_S) > bounds.max_trajectory_s:
        raise Rejected(
            Reason.DURATION, f"the trajectory lasts {lasts_s:.2f} s, max_trajectory_s is {bounds.max_trajectory_s:g}"
        )
    return due_ns
