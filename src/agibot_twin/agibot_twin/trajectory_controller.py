"""One group of joints that follows trajectories exactly as ros2_control's joint trajectory controller does (Jazzy).

The rules, as measured on joint_trajectory_controller 4.42.1 with interpolate_from_desired_state: true:

- A new trajectory replaces the old one whole, at the next control cycle, whatever its stamp says. There is no blending.
- Stamp zero: it starts with that cycle. Any other stamp: point i is due at stamp + time_from_start[i].
- Until its first point is due, the joints move from the desired state of the taking cycle to that point. With a stamp
  in the future they set out at once and arrive late: nothing of the old trajectory is finished first.
- Points already due are skipped: the joints enter the segment that contains now, with a step if it lies elsewhere.
- Between two points: linear if either lacks velocities, cubic with velocities, quintic with accelerations too.
- After the last point they stay there.
- Refused, with one logged error and no motion: see `TrajectoryController.receive`. An empty message stops the joints.

Position limits are not this controller's business, as in ros2_control. Numpy only; times are int nanoseconds.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
NS_PER_S = 1_000_000_000


class TrajectoryRefused(ValueError):  # noqa: N818 (an answer to the sender, as the controller's own log line)
    """A trajectory that the controller does not follow; the text says why, with both values."""


@dataclass(frozen=True, slots=True, eq=False)
class JointTarget:
    """State of J joints: rad, rad/s, rad/s² (lift: m). None where a trajectory point leaves it open."""

    positions: Floats  # [J]
    velocities: Floats | None = None
    accelerations: Floats | None = None


@dataclass(frozen=True, slots=True, eq=False)
class TrajectoryPoint:
    """A target and when it is due, counted from the trajectory's start."""

    time_from_start_ns: int
    target: JointTarget


@dataclass(frozen=True, slots=True, eq=False)
class Trajectory:
    """Contents of a trajectory_msgs/JointTrajectory. `stamp_ns` 0 means: start when taken."""

    joint_names: Sequence[str]
    points: Sequence[TrajectoryPoint]
    stamp_ns: int = 0


class TrajectoryController:
    """Follows one trajectory at a time. `receive` may be called from another thread than `update`."""

    def __init__(self, name: str, joints: Sequence[str], positions: Floats) -> None:
        """`positions` [J]: where the joints are now, in the order of `joints`."""
        self.name = name
        self.joints = tuple(joints)
        self._pending: deque[Trajectory] = deque(maxlen=1)  # the newest; filled by another thread
        self.hold(positions)

    def hold(self, positions: Floats | None = None) -> None:
        """Forget every trajectory and stay at `positions` [J] (default: the desired ones)."""
        if positions is None:
            positions = self._desired.positions
        self._pending.clear()
        self._trajectory: Trajectory | None = None
        self._desired = _at_rest(np.array(positions, dtype=np.float64))

    def copy(self) -> "TrajectoryController":
        """One that goes on as this one would, for itself."""
        other = copy(self)
        other._pending = self._pending.copy()
        return other

    @property
    def desired(self) -> JointTarget:
        """What was last commanded."""
        return self._desired

    def receive(self, trajectory: Trajectory, now_ns: int) -> None:
        """Check a trajectory and take it at the next `update`.

        Raises TrajectoryRefused for: no points, no joint names, unknown, repeated or missing joints, a wrong number of
        values, values that are not finite, times that do not increase, an end in the past, a velocity at the end.
        """
        if not trajectory.joint_names and not trajectory.points:
            self._pending.append(trajectory)  # an empty message: stop
            return
        self._pending.append(self._checked(trajectory, now_ns))

    def update(self, now_ns: int, sample_ns: int | None = None) -> JointTarget:
        """One control cycle: take a pending trajectory, return the desired state at `sample_ns` (default: now).

        Sampling ahead of the cycle's start lets the caller ramp its drives over the cycle.
        """
        if self._pending:
            pending = self._pending.popleft()
            if pending.points:
                self._start(pending, now_ns)
            else:
                self.hold()
        if self._trajectory is not None:
            self._desired = self._sample(now_ns if sample_ns is None else sample_ns)
        return self._desired

    def _start(self, trajectory: Trajectory, now_ns: int) -> None:
        self._trajectory = trajectory
        self._taken_ns, self._taken_state = now_ns, self._desired
        start_ns = trajectory.stamp_ns or now_ns
        self._due_ns = [start_ns + point.time_from_start_ns for point in trajectory.points]

    def _sample(self, at_ns: int) -> JointTarget:
        points = self._trajectory.points
        after = bisect_right(self._due_ns, at_ns)  # index of the first point that is still to come
        if after == len(points):
            return _complete(points[-1].target)
        if after == 0:
            begin_ns, begin = self._taken_ns, self._taken_state
        else:
            begin_ns, begin = self._due_ns[after - 1], points[after - 1].target
        return interpolate(
            begin, points[after].target, (self._due_ns[after] - begin_ns) / NS_PER_S, (at_ns - begin_ns) / NS_PER_S
        )

    def _checked(self, trajectory: Trajectory, now_ns: int) -> Trajectory:
        """The trajectory with its joints in this controller's order."""
        if not trajectory.points:
            raise TrajectoryRefused(f"{self.name}: trajectory without points")
        given, wanted = list(trajectory.joint_names), list(self.joints)
        if sorted(given) != sorted(wanted):
            raise TrajectoryRefused(
                f"{self.name}: joints do not match: missing {sorted(set(wanted) - set(given))}, "
                f"unknown {sorted(set(given) - set(wanted))}, {len(given)} named, {len(wanted)} expected"
            )
        times = [point.time_from_start_ns for point in trajectory.points]
        if any(later <= earlier for earlier, later in pairwise(times)):
            raise TrajectoryRefused(f"{self.name}: time_from_start does not increase: {_seconds(times)}")
        end_ns = trajectory.stamp_ns + times[-1]
        if trajectory.stamp_ns != 0 and end_ns < now_ns:
            raise TrajectoryRefused(f"{self.name}: trajectory ended {(now_ns - end_ns) / NS_PER_S:.3f} s ago")
        order = [given.index(joint) for joint in wanted]
        points = [
            replace(point, target=self._checked_target(point.target, index, order))
            for index, point in enumerate(trajectory.points)
        ]
        last = points[-1].target.velocities
        if last is not None and np.any(last != 0.0):
            worst = int(np.argmax(np.abs(last)))
            raise TrajectoryRefused(
                f"{self.name}: last point must be at rest, but {self.joints[worst]} has velocity {last[worst]:.4f}"
            )
        return Trajectory(self.joints, points, trajectory.stamp_ns)

    def _checked_target(self, target: JointTarget, index: int, order: list[int]) -> JointTarget:
        columns = []
        for what in ("positions", "velocities", "accelerations"):
            values = getattr(target, what)
            if values is None:
                columns.append(None)
                continue
            if len(values) != len(self.joints):
                raise TrajectoryRefused(
                    f"{self.name}: point {index} has {len(values)} {what} for {len(self.joints)} joints"
                )
            values = np.asarray(values, dtype=np.float64)[order]
            if not np.all(np.isfinite(values)):
                bad = self.joints[int(np.argmin(np.isfinite(values)))]
                raise TrajectoryRefused(f"{self.name}: point {index}: {what} of {bad} is not finite")
            columns.append(values)
        return JointTarget(*columns)


def interpolate(begin: JointTarget, end: JointTarget, duration_s: float, elapsed_s: float) -> JointTarget:
    """Desired state `elapsed_s` into a segment of `duration_s`: the lowest polynomial that meets what both ends give.

    Positions only: a straight line. Velocities at both ends: cubic. Accelerations at both ends as well: quintic.
    """
    p0, p1, h, t = begin.positions, end.positions, duration_s, elapsed_s
    if begin.velocities is None or end.velocities is None:
        slope = (p1 - p0) / h
        return JointTarget(p0 + slope * t, slope, np.zeros_like(p0))
    v0, v1, rise = begin.velocities, end.velocities, p1 - p0
    if begin.accelerations is None or end.accelerations is None:
        c2 = (3 * rise - (2 * v0 + v1) * h) / h**2
        c3 = (-2 * rise + (v0 + v1) * h) / h**3
        coefficients = (p0, v0, c2, c3)
    else:
        a0, a1 = begin.accelerations, end.accelerations
        c3 = (20 * rise - (8 * v1 + 12 * v0) * h - (3 * a0 - a1) * h**2) / (2 * h**3)
        c4 = (-30 * rise + (14 * v1 + 16 * v0) * h + (3 * a0 - 2 * a1) * h**2) / (2 * h**4)
        c5 = (12 * rise - 6 * (v1 + v0) * h + (a1 - a0) * h**2) / (2 * h**5)
        coefficients = (p0, v0, a0 / 2, c3, c4, c5)
    position = velocity = acceleration = np.zeros_like(p0)
    for coefficient in reversed(coefficients):  # Horner, with the derivatives alongside
        acceleration = acceleration * t + 2 * velocity
        velocity = velocity * t + position
        position = position * t + coefficient
    return JointTarget(position, velocity, acceleration)


def _at_rest(positions: Floats) -> JointTarget:
    return JointTarget(positions, np.zeros_like(positions), np.zeros_like(positions))


def _complete(target: JointTarget) -> JointTarget:
    """The target with zeros where it leaves velocity or acceleration open."""
    zeros = np.zeros_like(target.positions)
    return JointTarget(
        target.positions,
        zeros if target.velocities is None else target.velocities,
        zeros if target.accelerations is None else target.accelerations,
    )


def _seconds(times_ns: Sequence[int]) -> list[float]:
    return [time_ns / NS_PER_S for time_ns in times_ns]
