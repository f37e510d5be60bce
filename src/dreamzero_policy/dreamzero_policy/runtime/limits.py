"""Limits: the one gate every plan passes before a world acts on it.

A plan is accepted whole or rejected whole, with a numbered verdict and a reason that names joint, value and limit.
Nothing is clamped and nothing is replaced. Extremes of a piecewise cubic are exact: acceleration is linear in each
segment, velocity has its extreme where acceleration vanishes, position where velocity does.

Jerk is judged as a controller at 100 Hz shows it. The acceleration of a plan steps at knots, so its third derivative
says nothing; what counts is by how much acceleration changes over one control period. No third difference of 10 ms
samples, wherever they begin, is larger than the largest such change.

What needs the robot's shape (`geometry.py`) is judged last, and only where the contract asks for it.

Compiled kernels (`kernels.py`), where they are in use, say whether all is well. What they do not pass is judged again
in numpy wherever a reason is asked for, and then numpy's word counts.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from dreamzero_policy.runtime import kernels
from dreamzero_policy.runtime.chunk import ACCEPTED, Judgement, Verdict
from dreamzero_policy.runtime.contract import Contract, JointLimits
from dreamzero_policy.runtime.embodiment import Floats
from dreamzero_policy.runtime.geometry import Check, checks_of
from dreamzero_policy.runtime.observation import NS_PER_S
from dreamzero_policy.runtime.plan import Plan

ROUNDING = 1e-9
OUTSIDE = 2 * ROUNDING  # a joint is outside its range from there on: nearer a plan may lead it by rounding
START_EXCESS = 0.01  # [rad, m] a joint that stands outside its range may move back in, never farther out than this
CONTROL_S = 0.01  # period of the controller whose samples the jerk is that of
CONTROL_NS = round(CONTROL_S * NS_PER_S)
LOOK_NS = 20_000_000  # how often the robot's shape is looked at
TOLERANCES = (ROUNDING, OUTSIDE, START_EXCESS)  # as the kernels take them


class Limits:
    """The limits of the commanded joints, in their order, without the margins."""

    def __init__(self, joints: Sequence[str], limits: Mapping[str, JointLimits], checks: Sequence[Check] = ()) -> None:
        self.joints, self.checks = tuple(joints), tuple(checks)
        self.by_joint = tuple(limits[joint].usable for joint in joints)
        self.lower, self.upper, self.velocity, self.acceleration, self.jerk, self.step = (
            np.array([getattr(limit, name) for limit in self.by_joint])
            for name in ("lower", "upper", "velocity", "acceleration", "jerk", "step")
        )
        # Where the joint may be at all: in its margin it may stay, and come back.
        self._lowest, self._highest = (
            np.array([getattr(limits[j], end) for j in joints]) for end in ("lower", "upper")
        )
        ranges = self.lower, self.upper, self._lowest, self._highest
        self.table = np.stack([*ranges, self.velocity, self.acceleration, self.jerk, self.step])  # [8, J], for kernels

    @classmethod
    def of(cls, contract: Contract) -> "Limits":
        """All that a contract asks for.

        Raises:
            ContractError: it asks for something about the robot's shape, and no geometry of this robot is installed.
        """
        return cls(contract.model.commanded_joints, contract.site.limits, checks_of(contract))

    def judge_rows(self, rows: Floats, present: Floats) -> Judgement:
        """A chunk's rows [H, J] against the positions [J] executed where it would take over."""
        if rows.ndim != 2 or rows.shape[1] != len(self.joints):
            return Judgement(
                Verdict.REJECTED_JOINT_SET, f"rows of {rows.shape[-1]} joints, {len(self.joints)} are commanded"
            )
        if kernels.in_use() and kernels.rows_within(rows, present, self.table, ROUNDING):
            return ACCEPTED
        return self.rows_judged(rows, present)

    def rows_judged(self, rows: Floats, present: Floats) -> Judgement:
        """:meth:`judge_rows` in numpy, of rows with the right joints."""
        if not np.isfinite(rows).all():
            step, joint = np.argwhere(~np.isfinite(rows))[0]
            return Judgement(Verdict.REJECTED_NOT_FINITE, f"{self.joints[joint]} is {rows[step, joint]} in row {step}")
        return self._judge(
            Verdict.REJECTED_STEP, np.abs(rows[0] - present)[None], self.step, "first row differs from the plan by"
        )

    def judge(self, plan: Plan) -> Judgement:
        """A whole plan, that ends at rest; hand over what is still to be executed."""
        return self.judge_joints(plan) and self.judge_shape(plan)

    def judge_joints(self, plan: Plan) -> Judgement:
        """:meth:`judge` without the robot's shape."""
        return ACCEPTED if self._plan_within(plan) else self.judged(plan)

    def keeps(self, plan: Plan) -> bool:
        """Whether :meth:`judge` accepts a plan, where nobody asks why not: what kernels refuse is not judged again."""
        return bool(self._plan_within(plan) and self.judge_shape(plan) if kernels.in_use() else self.judge(plan))

    def judge_shape(self, plan: Plan) -> Judgement:
        """:meth:`judge` of the robot's shape alone: its workspace and its clearance, where the contract bounds them."""
        if not self.checks:
            return ACCEPTED
        looks, _ = plan.sample(np.arange(plan.knots_ns[0], plan.end_ns + LOOK_NS, LOOK_NS))
        return next((verdict for check in self.checks if not (verdict := check(looks))), ACCEPTED)

    def _plan_within(self, plan: Plan) -> bool:
        return kernels.in_use() and kernels.plan_within(
            plan.knots_ns, plan.positions, plan.velocities, self.table, TOLERANCES, CONTROL_NS, CONTROL_S
        )

    def judged(self, plan: Plan) -> Judgement:
        """:meth:`judge_joints` in numpy."""
        judgement = self._judge_positions(plan)
        if judgement and len(plan.knots_ns) > 1:
            speeds, (first, last) = _fastest(plan), plan.accelerations
            judgement = (
                self._judge(Verdict.REJECTED_VELOCITY, speeds, self.velocity, "reaches the speed")
                and self._judge_accelerations(np.maximum(np.abs(first), np.abs(last)))
                and self._judge(Verdict.REJECTED_JERK, _jerks(plan), self.jerk, "reaches the jerk")
            )
        return judgement

    def judge_end(self, plan: Plan) -> Judgement:
        """Where a plan that ends moving ends: what a tail may begin with."""
        if kernels.in_use() and kernels.end_within(
            plan.knots_ns, plan.positions, plan.velocities, self.table, TOLERANCES
        ):
            return ACCEPTED
        return self.end_judged(plan)

    def end_judged(self, plan: Plan) -> Judgement:
        """:meth:`judge_end` in numpy."""
        position = plan.positions[-1]
        outside = np.maximum(position - self._highest, self._lowest - position)
        if (outside > START_EXCESS).any():
            return self._out_of_range(joint := np.argmax(outside), position[joint])
        speeds = np.abs(plan.velocities[-1:])
        return self._judge(
            Verdict.REJECTED_VELOCITY, speeds, self.velocity, "reaches the speed"
        ) and self._judge_accelerations(np.abs(plan.acceleration_at_end())[None])

    def _judge_accelerations(self, values: Floats) -> Judgement:
        return self._judge(Verdict.REJECTED_ACCELERATION, values, self.acceleration, "reaches the acceleration")

    def left_by(self, plan: Plan) -> NDArray[np.bool_]:
        """Which joints [J] a plan leads out of their ranges."""
        lower, upper = self._ranges(plan)
        positions = _extremes(plan) if len(plan.knots_ns) > 1 else plan.positions
        return ((positions > upper + ROUNDING) | (positions < lower - ROUNDING)).any(0)

    def _ranges(self, plan: Plan) -> tuple[Floats, Floats]:
        """Where the joints may be, lowest and highest [J]. One that stands outside may stay there, and come back."""
        start = plan.positions[0]
        above, below = start > self.upper + OUTSIDE, start < self.lower - OUTSIDE
        upper = np.where(above, np.minimum(start, self._highest) + START_EXCESS, self.upper)
        lower = np.where(below, np.maximum(start, self._lowest) - START_EXCESS, self.lower)
        return lower, upper

    def _judge_positions(self, plan: Plan) -> Judgement:
        lower, upper = self._ranges(plan)
        if _within(_hull(plan), lower, upper) or _within(positions := _extremes(plan), lower, upper):
            return ACCEPTED
        outside = np.maximum(positions - upper, lower - positions)
        row, joint = np.unravel_index(np.argmax(outside), outside.shape)
        return self._out_of_range(joint, positions[row, joint])

    def _out_of_range(self, joint: int, position: float) -> Judgement:
        return Judgement(
            Verdict.REJECTED_POSITION,
            f"{self.joints[joint]} reaches {position:.4f}, limits {self.lower[joint]:.4f} to {self.upper[joint]:.4f}",
        )

    def _judge(self, verdict: Verdict, values: Floats, limit: Floats, what: str) -> Judgement:
        if (values <= limit + ROUNDING).all():
            return ACCEPTED
        peaks = values.max(0)
        joint = np.argmax(peaks / limit)
        return Judgement(verdict, f"{self.joints[joint]} {what} {peaks[joint]:.4f}, limit {limit[joint]:.4f}")


def _within(positions: Floats, lower: Floats, upper: Floats) -> bool:
    """Whether positions [·, J] lie between limits [J]."""
    return bool((positions <= upper + ROUNDING).all() and (positions >= lower - ROUNDING).all())


def _hull(plan: Plan) -> Floats:
    """Positions [·, J] between which the whole plan lies: the control points of its cubics. Often enough to know."""
    reach = plan.velocities * (1 / 3)
    h = plan.durations_s
    return np.concatenate([plan.positions, plan.positions[:-1] + h * reach[:-1], plan.positions[1:] - h * reach[1:]])


def _extremes(plan: Plan) -> Floats:
    """Positions [·, J] among which are the extremes of every segment: at its ends, and where velocity vanishes."""
    (bend, twist), start = plan.bends, plan.velocities[:-1]
    root = np.sqrt(np.maximum(bend * bend - 3 * twist * start, 0))
    q = -(bend + np.copysign(root, bend))  # without a difference of nearly equal numbers
    zeros = np.zeros_like(q)
    turns = np.stack(
        [
            np.divide(q, 3 * twist, out=zeros.copy(), where=twist != 0),
            np.divide(start, q, out=zeros.copy(), where=q != 0),
        ]
    )
    t = np.where((turns > 0) & (turns < plan.durations_s), turns, 0)
    between = plan.positions[:-1] + t * (start + t * (bend + t * twist))
    return np.concatenate([plan.positions, between.reshape(-1, plan.positions.shape[1])])


def _fastest(plan: Plan) -> Floats:
    """Speeds [·, J] among which is the largest of every segment: at its ends, and where acceleration changes sign."""
    first, last = plan.accelerations
    turns = first * last < 0
    gain = np.divide(0.5 * first * first, first - last, out=np.zeros_like(first), where=turns)
    return np.abs(np.concatenate([plan.velocities, plan.velocities[:-1] + plan.durations_s * gain]))


def _jerks(plan: Plan) -> Floats:
    """Changes of acceleration [·, J] over a control period, per second: the largest of all periods is among them.

    Acceleration is linear in each segment and steps at knots, so it changes most over a period that begins or ends at a
    knot, just before it or just behind. After the plan there is none.
    """
    knots_ns = np.append(plan.knots_ns, plan.end_ns + CONTROL_NS)
    first, last = (np.append(ends, np.zeros((1, ends.shape[1])), 0) for ends in plan.accelerations)
    begin_ns, end_ns = knots_ns[:-1], knots_ns[1:]
    behind_ns = np.concatenate([begin_ns - CONTROL_NS, begin_ns + CONTROL_NS])  # from just behind a knot
    before_ns = np.concatenate([end_ns - CONTROL_NS, end_ns + CONTROL_NS])  # from just before one
    segment = np.concatenate([knots_ns.searchsorted(behind_ns, "right"), knots_ns.searchsorted(before_ns)]) - 1
    segment = np.minimum(np.maximum(segment, 0), len(first) - 1)
    other_ns = np.minimum(np.maximum(np.concatenate([behind_ns, before_ns]), knots_ns[0]), knots_ns[-1])
    slope = (last - first) / (end_ns - begin_ns)[:, None]
    other = first[segment] + (other_ns - knots_ns[segment])[:, None] * slope[segment]
    return np.abs(other - np.concatenate([first, first, last, last])) / CONTROL_S
