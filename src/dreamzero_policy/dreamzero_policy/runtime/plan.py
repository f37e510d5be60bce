"""The plan: the trajectory being executed, on an absolute time grid, always ending at rest.

A plan is a piecewise cubic through knots with positions and velocities, exactly what a joint trajectory controller
interpolates, so sampling a plan tells where the robot is told to be. It is immutable: a chunk gives a new plan of the
committed part of the old one, a way into the chunk's rows (a cross-fade, or a jerk-limited bridge by ruckig) and a tail
that decelerates to rest (by ruckig too). If nothing follows, the robot finishes the tail and stands. Which way is taken
is decided in `splice.py`.
"""

import atexit
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from threading import get_ident

import numpy as np
import ruckig
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from dreamzero_policy.runtime import kernels
from dreamzero_policy.runtime.contract import JointLimits
from dreamzero_policy.runtime.embodiment import Floats
from dreamzero_policy.runtime.observation import NS_PER_S

SHORTEST_NS = 1_000_000  # between two knots: below it, rounding would dominate the acceleration
KNOTS_NS = 34_000_000  # apart at most in a bridge and a tail: one period of 30 Hz
SHARE, JERK_SHARE = 0.9, 0.5  # of the limits that they use: cubics between such knots show up to 1.1 and 2 times more
PUNCTUAL_S = 1e-6  # a bridge may be so late
WIND_DOWN_STEPS = 2  # in which a plan that is carried on gives up its acceleration


@dataclass(frozen=True, eq=False)
class Rows:
    """Joint targets on an even time grid, as a chunk wants them."""

    positions: Floats  # [H, J] rad and m
    start_ns: int  # when row 0 is due
    step_ns: int

    @property
    def instants_ns(self) -> NDArray[np.int64]:
        """[H]"""
        return np.arange(self.start_ns, self.start_ns + self.step_ns * len(self.positions), self.step_ns)

    def since(self, instant_ns: int) -> "Rows":
        """Without those due before an instant: what is left of a chunk that came late."""
        past = max(0, -((self.start_ns - instant_ns) // self.step_ns))
        return Rows(self.positions[past:], self.start_ns + past * self.step_ns, self.step_ns)


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

    @cached_property
    def durations_s(self) -> Floats:
        """[N-1, 1] of the segments."""
        return ((self.knots_ns[1:] - self.knots_ns[:-1]) / NS_PER_S)[:, None]

    @cached_property
    def bends(self) -> tuple[Floats, Floats]:
        """Of every segment [N-1, J]: half the acceleration at its begin, a sixth of its jerk."""
        h = self.durations_s
        rise, v0, v1 = (self.positions[1:] - self.positions[:-1]) / h, self.velocities[:-1], self.velocities[1:]
        return (3 * rise - 2 * v0 - v1) / h, (v0 + v1 - 2 * rise) / (h * h)

    @cached_property
    def accelerations(self) -> tuple[Floats, Floats]:
        """Acceleration [N-1, J] at the beginning and at the end of every segment; linear in between."""
        bend, twist = self.bends
        first = 2 * bend
        return first, first + 6 * self.durations_s * twist

    @property
    def last_acceleration(self) -> Floats:
        """[J] just before the last knot."""
        if kernels.in_use():
            return kernels.last_acceleration(self.knots_ns, self.positions, self.velocities)
        return self.acceleration_at_end()

    def acceleration_at_end(self) -> Floats:
        """:attr:`last_acceleration` in numpy."""
        if len(self.knots_ns) == 1:
            return np.zeros(self.positions.shape[1])
        h = float(self.knots_ns[-1] - self.knots_ns[-2]) / NS_PER_S
        (p0, p1), (v0, v1) = self.positions[-2:], self.velocities[-2:]
        return (2 * v0 + 4 * v1 - 6 * (p1 - p0) / h) / h

    def first_after(self, instant_ns: int) -> int:
        """Which knot is the first after an instant; their number if none is."""
        return int(self.knots_ns.searchsorted(instant_ns, "right"))

    def first_not_before(self, instant_ns: int) -> int:
        """Which knot is the first at an instant or after it; their number if none is."""
        return int(self.knots_ns.searchsorted(instant_ns))

    def remaining_s(self, now_ns: int) -> float:
        """Motion left, tail included [s]."""
        return max(0.0, (self.end_ns - now_ns) / NS_PER_S)

    def sample(self, instants_ns: NDArray[np.int64] | Sequence[int]) -> tuple[Floats, Floats]:
        """Positions and velocities [T, J] at the instants, held constant outside the knots."""
        instants = np.asarray(instants_ns, dtype=np.int64)
        if kernels.in_use():
            return kernels.sample(self.knots_ns, self.positions, self.velocities, instants)
        return self.sampled(instants)

    def sampled(self, instants: NDArray[np.int64]) -> tuple[Floats, Floats]:
        """:meth:`sample` in numpy."""
        if len(self.knots_ns) == 1:
            return np.repeat(self.positions, len(instants), 0), np.zeros((len(instants), self.positions.shape[1]))
        segment = np.minimum(np.maximum(self.knots_ns.searchsorted(instants, "right") - 1, 0), len(self.knots_ns) - 2)
        inside = np.minimum(np.maximum(instants, self.knots_ns[0]), self.knots_ns[-1])
        t = ((inside - self.knots_ns[segment]) / NS_PER_S)[:, None]
        bend, twist, start = self.bends[0][segment], self.bends[1][segment], self.velocities[segment]
        position = self.positions[segment] + t * (start + t * (bend + t * twist))
        velocity = start + t * (2 * bend + 3 * t * twist)
        velocity[instants != inside] = 0.0
        return position, velocity

    def after(self, instant_ns: int) -> "Plan":
        """The plan from an instant on, with a knot there: what is still to be checked or sent to a controller."""
        if instant_ns >= self.end_ns - SHORTEST_NS:
            return Plan.rest(self.positions[-1], instant_ns)
        keep = self.first_after(instant_ns + SHORTEST_NS)
        position, velocity = self.sample([instant_ns])
        return Plan(
            np.concatenate([[instant_ns], self.knots_ns[keep:]]),
            np.concatenate([position, self.positions[keep:]]),
            np.concatenate([velocity, self.velocities[keep:]]),
        )

    def as_sent(self, now_ns: int, first_ns: int, past_ns: int) -> "Plan":
        """The plan as a controller carries it out that hears of it now, with the first point at `first_ns`.

        Between the two it goes its own way from state to state: one cubic, whatever knots the plan has there. Of what
        was commanded before, `past_ns` are kept.
        """
        since_ns = now_ns - past_ns
        past = slice(self.first_after(since_ns + SHORTEST_NS), self.first_not_before(now_ns - SHORTEST_NS))
        rest = self.first_after(first_ns + SHORTEST_NS)
        position, velocity = self.sample([since_ns, now_ns, first_ns])
        return Plan(
            np.concatenate([[since_ns], self.knots_ns[past], [now_ns, first_ns], self.knots_ns[rest:]]),
            np.concatenate([position[:1], self.positions[past], position[1:], self.positions[rest:]]),
            np.concatenate([velocity[:1], self.velocities[past], velocity[1:], self.velocities[rest:]]),
        )

    def until(self, instant_ns: int) -> "Plan":
        """The plan up to an instant, with a knot there."""
        keep = self.first_not_before(instant_ns - SHORTEST_NS)
        position, velocity = self.sample([instant_ns])
        return Plan(
            np.concatenate([self.knots_ns[:keep], [instant_ns]]),
            np.concatenate([self.positions[:keep], position]),
            np.concatenate([self.velocities[:keep], velocity]),
        )

    def cross_fades(self, rows: Rows, blends_s: Iterable[float]) -> Iterator["Plan"]:
        """Follow this plan until the rows begin, then the rows, faded in over a blend; one plan for each blend.

        Position and velocity are continuous at the seam by construction, and the fade's weight begins and ends without
        a kink. A fade longer than the rows ends unfinished. The results end moving: add a tail.
        """
        times_ns = rows.instants_ns
        old, speeds = self.sample(times_ns)
        committed = self.first_not_before(rows.start_ns - SHORTEST_NS)
        knots_ns = np.concatenate([self.knots_ns[:committed], times_ns])
        from_rows, from_start = spline_velocities(len(times_ns))
        from_start = from_start[:, None] * speeds[0]
        fade = kernels.fade if kernels.in_use() else faded_in
        for blend_s in blends_s:
            blended = fade(old, rows.positions, rows.step_ns, NS_PER_S * blend_s)
            velocities = (NS_PER_S / rows.step_ns) * (from_rows @ blended) + from_start
            yield Plan(
                knots_ns,
                np.concatenate([self.positions[:committed], blended]),
                np.concatenate([self.velocities[:committed], velocities]),
            )

    def bridge(self, rows: Rows, limits: Sequence[JointLimits]) -> "Plan | None":
        """Follow this plan until the rows begin, go to the first of them that can be caught up with, then follow them.

        The way there is jerk-limited, from the plan's own position, velocity and acceleration to those of the row at
        the row's instant. None if no row can be reached in time. The result ends moving: add a tail.
        """
        committed = self.until(rows.start_ns)
        from_rows, bend_from_rows = free_spline(len(rows.positions))
        velocities = from_rows @ rows.positions * (NS_PER_S / rows.step_ns)
        accelerations = bend_from_rows @ rows.positions * (NS_PER_S / rows.step_ns) ** 2
        way = _profile(committed, limits, ruckig.ControlInterface.Position)
        way.synchronization = ruckig.Synchronization.Time
        way.max_velocity = [SHARE * limit.velocity for limit in limits]
        path, row, solver = ruckig.Trajectory(len(limits)), 1, _solver(len(limits), get_ident())
        while row < len(rows.positions):
            due_s = row * rows.step_ns / NS_PER_S
            way.target_position = rows.positions[row].tolist()
            way.target_velocity = velocities[row].tolist()
            way.target_acceleration = accelerations[row].tolist()
            way.minimum_duration = due_s
            try:
                solver.calculate(way, path)
            except (ruckig.RuckigError, ValueError):  # at this row the chunk asks for more than the limits
                row += 1
                continue
            if path.duration <= due_s + PUNCTUAL_S:
                break
            row = max(row + 1, int(np.ceil(path.duration * NS_PER_S / rows.step_ns)))
        else:
            return None
        times_ns = _knots(row, rows.step_ns)
        positions, speeds = _sampled(path, times_ns)
        positions[-1], speeds[-1] = rows.positions[row], velocities[row]
        return Plan(
            np.concatenate([committed.knots_ns, rows.start_ns + times_ns, rows.instants_ns[row + 1 :]]),
            np.concatenate([committed.positions, positions, rows.positions[row + 1 :]]),
            np.concatenate([committed.velocities, speeds, velocities[row + 1 :]]),
        )

    def carried_on(self, start_ns: int, step_ns: int, count: int) -> "Plan":
        """This plan up to a step before `start_ns`, then on with what it does there: what the next chunk fades from.

        Between chunks that follow each other without a pause nothing may be seen of the tail behind the first. The
        acceleration of the last row falls evenly to zero over WIND_DOWN_STEPS, then the speed stays.
        """
        committed = self.until(start_ns - step_ns)
        position, velocity, bend = committed.positions[-1], committed.velocities[-1], committed.last_acceleration
        step_s, steps = step_ns / NS_PER_S, np.arange(count)
        wind_s, t = WIND_DOWN_STEPS * step_s, step_s * (steps[:, None] + 1)
        w = np.minimum(t, wind_s)
        gain = w - w * w / (2 * wind_s)  # of speed, for an acceleration of one
        way = w * w / 2 - w * w * w / (6 * wind_s) + (t - w) * wind_s / 2
        return Plan(
            np.concatenate([committed.knots_ns, start_ns + step_ns * steps]),
            np.concatenate([committed.positions, position + velocity * t + bend * way]),
            np.concatenate([committed.velocities, velocity + bend * gain]),
        )

    def with_tail(self, limits: Sequence[JointLimits], step_ns: int) -> "Plan":
        """Decelerate from the last knot to rest inside the limits. The plan must be inside them itself."""
        way = _profile(self, limits, ruckig.ControlInterface.Velocity)
        way.synchronization = ruckig.Synchronization.No
        way.target_velocity = way.target_acceleration = [0.0] * len(limits)
        tail = ruckig.Trajectory(len(limits))
        _solver(len(limits), get_ident()).calculate(way, tail)
        times_ns = _knots(max(1, int(np.ceil(tail.duration * NS_PER_S / step_ns))), step_ns)
        positions, velocities = _sampled(tail, times_ns)
        velocities[-1] = 0.0
        return Plan(
            np.concatenate([self.knots_ns, self.knots_ns[-1] + times_ns]),
            np.concatenate([self.positions, positions]),
            np.concatenate([self.velocities, velocities]),
        )


def faded_in(old: Floats, rows: Floats, step_ns: int, span_ns: float) -> Floats:
    """Rows [H, J] faded in over what they take over from: from none of the first to all of those behind the span."""
    weight = smootherstep(step_ns * np.arange(len(rows)) / span_ns)[:, None]
    return old + weight * (rows - old)


def _profile(plan: Plan, limits: Sequence[JointLimits], interface: ruckig.ControlInterface) -> ruckig.InputParameter:
    """A way from the state at the plan's end, inside a share of the limits."""
    way = ruckig.InputParameter(len(limits))
    way.control_interface = interface
    way.current_position = plan.positions[-1].tolist()
    way.current_velocity = plan.velocities[-1].tolist()
    way.current_acceleration = plan.last_acceleration.tolist()
    way.max_acceleration = [SHARE * limit.acceleration for limit in limits]
    way.max_jerk = [JERK_SHARE * limit.jerk for limit in limits]
    return way


@lru_cache
def _solver(joints: int, thread: int) -> ruckig.Ruckig:
    """One for each thread, since a solver has scratch space of its own, and costs more than what it is asked."""
    return ruckig.Ruckig(joints)


atexit.register(_solver.cache_clear)  # else the bindings print what is still there at the end as leaked


def _knots(steps: int, step_ns: int) -> NDArray[np.int64]:
    """Times from the begin of a profile over so many steps, the begin left out."""
    finer = -(-step_ns // KNOTS_NS)
    return np.arange(1, finer * steps + 1) * step_ns // finer


def _sampled(path: ruckig.Trajectory, times_ns: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Positions and velocities [T, J] of a profile; behind its end those of its end."""
    end_s, shape = path.duration, (len(times_ns), path.degrees_of_freedom)
    positions: list[float] = []
    velocities: list[float] = []
    for time_ns in times_ns.tolist():
        position, velocity, _ = path.at_time(min(time_ns / NS_PER_S, end_s))
        positions += position
        velocities += velocity
    return np.array(positions).reshape(shape), np.array(velocities).reshape(shape)


def prepare(rows: int) -> None:
    """Make ready what splices of up to so many rows need: no splice of a moving robot waits for it then."""
    for count in range(2, rows + 1):
        spline_velocities(count)
        free_spline(count)


@cache
def spline_velocities(count: int) -> tuple[Floats, Floats]:
    """Velocities at the knots of a cubic spline through rows a unit step apart, as a linear map of what determines it.

    [count, count] from the rows and [count] from the velocity at the first knot; the far end is "not-a-knot".
    """
    knots = np.arange(count)
    rows = CubicSpline(knots, np.eye(count), axis=0, bc_type=((1, np.zeros(count)), "not-a-knot"))(knots, 1)
    start = CubicSpline(knots, np.zeros(count), bc_type=((1, 1.0), "not-a-knot"))(knots, 1)
    return rows, start


@cache
def free_spline(count: int) -> tuple[Floats, Floats]:
    """First and second derivatives [count, count] of a cubic spline at rows a unit step apart, as maps from the rows.

    Both ends are "not-a-knot".
    """
    knots = np.arange(count)
    spline = CubicSpline(knots, np.eye(count), axis=0)
    return spline(knots, 1), spline(knots, 2)


@dataclass(frozen=True)
class Seam:
    """What a command does around an instant at which one plan takes over from another, sampled every 10 ms."""

    velocity_jump: float  # largest step of velocity beyond what the acceleration limits allow, not below 0 [rad/s, m/s]
    jerk: float  # largest [rad/s³, m/s³]


def seam(before: Plan, after: Plan, instant_ns: int, acceleration: Floats) -> Seam:
    """The seam at an instant: 10 ms samples of the command within 50 ms of it. Acceleration limits are [J]."""
    step_s = 0.01
    instants = instant_ns + round(step_s * NS_PER_S) * np.arange(-6, 7)
    command = np.where((instants < instant_ns)[:, None], before.sample(instants)[0], after.sample(instants)[0])
    steps = np.abs(np.diff(command, 2, axis=0)) / step_s
    return Seam(
        float(max(0.0, (steps - acceleration * step_s).max())),
        float(np.abs(np.diff(command, 3, axis=0)).max() / step_s**3),
    )


def smootherstep(x: NDArray[np.float64]) -> Floats:
    """0 before 0, 1 after 1, with vanishing first and second derivative at both ends."""
    x = np.minimum(np.maximum(x, 0.0), 1.0)
    return x * x * x * (x * (6 * x - 15) + 10)
