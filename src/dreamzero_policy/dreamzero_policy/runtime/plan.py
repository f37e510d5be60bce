"""The plan: the trajectory being executed, on an absolute time grid, always ending at rest.

A plan is a piecewise cubic through knots with positions and velocities, exactly what a joint trajectory controller
interpolates, so sampling a plan tells where the robot is told to be. It is immutable: splicing a chunk gives a new
plan of the committed part of the old one, a cross-fade over `blend_s` into the chunk's rows, and a tail that
decelerates to rest (time-optimal under acceleration and jerk limits, by ruckig). If nothing follows, the robot
finishes the tail and stands.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import ruckig
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from dreamzero_policy.runtime.contract import JointLimits
from dreamzero_policy.runtime.embodiment import Floats
from dreamzero_policy.runtime.observation import NS_PER_S

SHORTEST_NS = 1_000_000  # between two knots: below it, rounding would dominate the acceleration
TAIL_SHARE = 0.9  # of the acceleration and jerk limits: knots a step apart are not the exact profile


@dataclass(frozen=True, eq=False)
class Plan:
    """Knots in time. Before the first and after the last the robot is at rest there."""

    knots_ns: NDArray[np.int64]  # [N] rising
    positions: Floats  # [N, J] rad and m
    velocities: Floats  # [N, J] per second

    @classmethod
    def rest(cls, positions: Floats, now_ns: int) -> "Plan":
        """Standing still."""
        return cls(np.array([now_ns]), positions[None].copy(), np.zeros_like(positions)[None])

    @property
    def end_ns(self) -> int:
        return int(self.knots_ns[-1])

    @property
    def durations_s(self) -> Floats:
        """[N-1, 1] of the segments."""
        return ((self.knots_ns[1:] - self.knots_ns[:-1]) / NS_PER_S)[:, None]

    def remaining_s(self, now_ns: int) -> float:
        """Motion left, tail included [s]."""
        return max(0.0, (self.end_ns - now_ns) / NS_PER_S)

    def sample(self, instants_ns: NDArray[np.int64] | Sequence[int]) -> tuple[Floats, Floats]:
        """Positions and velocities [T, J] at the instants, held constant outside the knots."""
        instants = np.asarray(instants_ns, dtype=np.int64)
        if len(self.knots_ns) == 1:
            return np.repeat(self.positions, len(instants), 0), np.zeros((len(instants), self.positions.shape[1]))
        inside = np.minimum(np.maximum(instants, self.knots_ns[0]), self.knots_ns[-1])
        right = np.maximum(self.knots_ns.searchsorted(inside), 1)
        left = right - 1
        h = ((self.knots_ns[right] - self.knots_ns[left]) / NS_PER_S)[:, None]
        s = ((inside - self.knots_ns[left]) / NS_PER_S)[:, None] / h
        p0, p1, v0, v1 = (
            self.positions[left],
            self.positions[right],
            self.velocities[left] * h,
            self.velocities[right] * h,
        )
        position = p0 + s * (v0 + s * (3 * (p1 - p0) - 2 * v0 - v1 + s * (2 * (p0 - p1) + v0 + v1)))
        velocity = (v0 + s * (2 * (3 * (p1 - p0) - 2 * v0 - v1) + s * 3 * (2 * (p0 - p1) + v0 + v1))) / h
        outside = (instants < self.knots_ns[0]) | (instants > self.knots_ns[-1])
        velocity[outside] = 0.0
        return position, velocity

    def accelerations(self) -> tuple[Floats, Floats]:
        """Acceleration [N-1, J] at the beginning and at the end of every segment; linear in between."""
        h = self.durations_s
        rise, v0, v1 = (self.positions[1:] - self.positions[:-1]) / h, self.velocities[:-1], self.velocities[1:]
        return (6 * rise - 4 * v0 - 2 * v1) / h, (-6 * rise + 2 * v0 + 4 * v1) / h

    def after(self, instant_ns: int) -> "Plan":
        """The plan from an instant on, with a knot there: what is still to be checked or sent to a controller."""
        if instant_ns >= self.end_ns - SHORTEST_NS:
            return Plan.rest(self.positions[-1], instant_ns)
        keep = self.knots_ns > instant_ns + SHORTEST_NS
        position, velocity = self.sample([instant_ns])
        return Plan(
            np.append(instant_ns, self.knots_ns[keep]),
            np.concatenate([position, self.positions[keep]]),
            np.concatenate([velocity, self.velocities[keep]]),
        )

    def until(self, instant_ns: int) -> "Plan":
        """The plan up to an instant, with a knot there."""
        keep = self.knots_ns < instant_ns - SHORTEST_NS
        position, velocity = self.sample([instant_ns])
        return Plan(
            np.append(self.knots_ns[keep], instant_ns),
            np.concatenate([self.positions[keep], position]),
            np.concatenate([self.velocities[keep], velocity]),
        )

    def splices(self, rows: Floats, start_ns: int, step_ns: int, blends_s: Iterable[float]) -> Iterator["Plan"]:
        """Follow this plan until `start_ns`, then the rows [H, J], one every `step_ns`, cross-faded in over a blend.

        One plan for each blend. Position and velocity are continuous at the seam by construction. The results end
        moving: add a tail.
        """
        committed = self.until(start_ns)
        times_ns = start_ns + step_ns * np.arange(len(rows))
        old, _ = self.sample(times_ns)
        from_rows, from_start = spline_velocities(len(rows))
        from_rows, from_start = from_rows * (NS_PER_S / step_ns), from_start[:, None] * committed.velocities[-1]
        knots_ns = np.concatenate([committed.knots_ns, times_ns[1:]])
        for blend_s in blends_s:
            weight = smootherstep((times_ns - start_ns) / NS_PER_S / blend_s)[:, None]
            blended = old + weight * (rows - old)
            velocities = from_rows @ blended + from_start
            yield Plan(
                knots_ns,
                np.concatenate([committed.positions, blended[1:]]),
                np.concatenate([committed.velocities, velocities[1:]]),
            )

    def splice(self, rows: Floats, start_ns: int, step_ns: int, blend_s: float) -> "Plan":
        """The only one of `splices` for a single blend."""
        return next(self.splices(rows, start_ns, step_ns, (blend_s,)))

    def carried_on(self, start_ns: int, step_ns: int, count: int) -> "Plan":
        """This plan up to a step before `start_ns`, then on at the speed it has there: what the next chunk fades from.

        Between chunks that follow each other without a pause nothing may be seen of the tail behind the first.
        """
        committed = self.until(start_ns - step_ns)
        position, velocity = committed.positions[-1:], committed.velocities[-1:]
        steps = np.arange(count)
        return Plan(
            np.concatenate([committed.knots_ns, start_ns + step_ns * steps]),
            np.concatenate([committed.positions, position + velocity * (steps[:, None] + 1) * step_ns / NS_PER_S]),
            np.concatenate([committed.velocities, np.repeat(velocity, count, 0)]),
        )

    def with_tail(self, limits: Sequence[JointLimits], step_ns: int) -> "Plan":
        """Decelerate from the last knot to rest inside the limits. The plan must be inside them itself."""
        joints = self.positions.shape[1]
        start = ruckig.InputParameter(joints)
        start.control_interface = ruckig.ControlInterface.Velocity
        start.synchronization = ruckig.Synchronization.No
        start.current_position = self.positions[-1].tolist()
        start.current_velocity = self.velocities[-1].tolist()
        start.current_acceleration = (
            self.accelerations()[1][-1] if len(self.knots_ns) > 1 else np.zeros(joints)
        ).tolist()
        start.target_velocity = start.target_acceleration = [0.0] * joints
        start.max_acceleration = [TAIL_SHARE * limit.acceleration for limit in limits]
        start.max_jerk = [TAIL_SHARE * limit.jerk for limit in limits]
        tail = ruckig.Trajectory(joints)
        ruckig.Ruckig(joints).calculate(start, tail)
        count = max(1, int(np.ceil(tail.duration * NS_PER_S / step_ns)))
        times_ns = step_ns * np.arange(1, count + 1)
        samples = [tail.at_time(min(time_ns / NS_PER_S, tail.duration))[:2] for time_ns in times_ns]
        positions, velocities = (np.array(column) for column in zip(*samples, strict=True))
        velocities[-1] = 0.0
        return Plan(
            np.concatenate([self.knots_ns, self.knots_ns[-1] + times_ns]),
            np.concatenate([self.positions, positions]),
            np.concatenate([self.velocities, velocities]),
        )


@lru_cache
def spline_velocities(count: int) -> tuple[Floats, Floats]:
    """Velocities at the knots of a cubic spline through rows a unit step apart, as a linear map of what determines it.

    [count, count] from the rows and [count] from the velocity at the first knot; the far end is "not-a-knot".
    """
    knots = np.arange(count)
    rows = CubicSpline(knots, np.eye(count), axis=0, bc_type=((1, np.zeros(count)), "not-a-knot"))(knots, 1)
    start = CubicSpline(knots, np.zeros(count), bc_type=((1, 1.0), "not-a-knot"))(knots, 1)
    return rows, start


def seam_velocity_jump(before: Plan, after: Plan, instant_ns: int, acceleration: Floats) -> float:
    """How much the commanded velocity steps around an instant at which one plan takes over from another.

    The largest change of velocity between 10 ms samples of the command within 50 ms of the instant, less what the
    acceleration limits [J] allow in 10 ms, not below zero [rad/s, m/s].
    """
    step_ns = NS_PER_S // 100
    instants = instant_ns + step_ns * np.arange(-6, 7)
    command = np.where((instants < instant_ns)[:, None], before.sample(instants)[0], after.sample(instants)[0])
    steps = np.abs(np.diff(command, 2, axis=0)) * NS_PER_S / step_ns
    return float(max(0.0, (steps - acceleration * step_ns / NS_PER_S).max()))


def smootherstep(x: NDArray[np.float64]) -> Floats:
    """0 before 0, 1 after 1, with vanishing first and second derivative at both ends."""
    x = np.minimum(np.maximum(x, 0.0), 1.0)
    return x * x * x * (x * (6 * x - 15) + 10)
