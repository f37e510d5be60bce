"""Limits: the one gate every plan passes before a world acts on it.

A plan is accepted whole or rejected whole, with a numbered verdict and a reason that names joint, value and limit.
Nothing is clamped and nothing is replaced. Extremes of a piecewise cubic are exact: acceleration is linear in each
segment, velocity has its extreme where acceleration vanishes, position is checked at knots and at nine points
between.

Jerk is judged as a controller at 100 Hz shows it. The acceleration of a plan steps at knots, so its third derivative
says nothing; what counts is by how much acceleration changes over one control period. No third difference of 10 ms
samples, wherever they begin, is larger than the largest such change.

What needs the robot's shape (`geometry.py`) is judged last, and only where the contract asks for it.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from dreamzero_policy.runtime.chunk import ACCEPTED, Judgement, Verdict
from dreamzero_policy.runtime.contract import Contract, JointLimits
from dreamzero_policy.runtime.embodiment import Floats
from dreamzero_policy.runtime.geometry import Check, checks_of
from dreamzero_policy.runtime.observation import NS_PER_S
from dreamzero_policy.runtime.plan import Plan

POINTS_BETWEEN_KNOTS = 9
ROUNDING = 1e-9
_S = np.linspace(0, 1, POINTS_BETWEEN_KNOTS + 2)[1:-1]
# Weights of both positions and both velocities (times the segment's duration) at the points between two knots.
BASIS = np.stack([1 - 3 * _S**2 + 2 * _S**3, 3 * _S**2 - 2 * _S**3, _S - 2 * _S**2 + _S**3, _S**3 - _S**2], axis=1)
START_EXCESS = 0.01  # [rad, m] a joint that stands outside its range may move back in, never farther out than this
CONTROL_S = 0.01  # period of the controller whose samples the jerk is that of
CONTROL_NS = round(CONTROL_S * NS_PER_S)
LOOK_NS = 20_000_000  # how often the robot's shape is looked at


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
        if not np.isfinite(rows).all():
            step, joint = np.argwhere(~np.isfinite(rows))[0]
            return Judgement(Verdict.REJECTED_NOT_FINITE, f"{self.joints[joint]} is {rows[step, joint]} in row {step}")
        return self._judge(
            Verdict.REJECTED_STEP, np.abs(rows[0] - present)[None], self.step, "first row differs from the plan by"
        )

    def judge(self, plan: Plan) -> Judgement:
        """A whole plan; hand over what is still to be executed."""
        judgement = self.judge_motion(plan)
        if judgement and self.checks:
            looks, _ = plan.sample(np.arange(plan.knots_ns[0], plan.end_ns + LOOK_NS, LOOK_NS))
            judgement = next((verdict for check in self.checks if not (verdict := check(looks))), ACCEPTED)
        return judgement

    def judge_motion(self, plan: Plan) -> Judgement:
        """Position, velocity, acceleration and jerk of a plan, or of a part of one that ends moving."""
        positions = _finely(plan)
        start = positions[0]
        upper = np.where(start > self.upper, np.minimum(start, self._highest) + START_EXCESS, self.upper)
        lower = np.where(start < self.lower, np.maximum(start, self._lowest) - START_EXCESS, self.lower)
        outside = np.maximum(positions - upper, lower - positions)
        if (outside > ROUNDING).any():
            row, joint = np.unravel_index(np.argmax(outside), outside.shape)
            return Judgement(
                Verdict.REJECTED_POSITION,
                f"{self.joints[joint]} reaches {positions[row, joint]:.4f}, "
                f"limits {self.lower[joint]:.4f} to {self.upper[joint]:.4f}",
            )
        if len(plan.knots_ns) == 1:
            return ACCEPTED
        first, last = plan.accelerations()
        largest = np.maximum(np.abs(first), np.abs(last))
        return (
            self._judge(Verdict.REJECTED_VELOCITY, _fastest(plan, first, last), self.velocity, "reaches the speed")
            and self._judge(Verdict.REJECTED_ACCELERATION, largest, self.acceleration, "reaches the acceleration")
            and self._judge(Verdict.REJECTED_JERK, _jerks(plan, first, last), self.jerk, "reaches the jerk")
        )

    def _judge(self, verdict: Verdict, values: Floats, limit: Floats, what: str) -> Judgement:
        if (values - limit <= ROUNDING).all():
            return ACCEPTED
        row, joint = np.unravel_index(np.argmax(values / limit), values.shape)
        return Judgement(verdict, f"{self.joints[joint]} {what} {values[row, joint]:.4f}, limit {limit[joint]:.4f}")


def _finely(plan: Plan) -> Floats:
    """Positions [·, J] at the knots and at the points between them; the first row is the first knot."""
    h = plan.durations_s
    corners = np.stack([plan.positions[:-1], plan.positions[1:], plan.velocities[:-1] * h, plan.velocities[1:] * h])
    between = BASIS @ corners.reshape(len(corners), -1)
    return np.concatenate([plan.positions, between.reshape(-1, plan.positions.shape[1])])


def _fastest(plan: Plan, first: Floats, last: Floats) -> Floats:
    """Largest speed [N-1, J] in every segment: at its ends, or where acceleration changes sign."""
    h = plan.durations_s
    ends = np.maximum(np.abs(plan.velocities[:-1]), np.abs(plan.velocities[1:]))
    turns = first * last < 0
    where = np.divide(first, first - last, out=np.zeros_like(first), where=turns)
    inner = np.abs(plan.velocities[:-1] + h * where * (first + 0.5 * where * (last - first)))
    return np.where(turns, np.maximum(ends, inner), ends)


def _jerks(plan: Plan, first: Floats, last: Floats) -> Floats:
    """Changes of acceleration [·, J] over a control period, per second: the largest of all periods is among them.

    Acceleration is linear in each segment and steps at knots, so it changes most over a period that begins or ends at a
    knot, just before it or just behind. Where a plan ends at rest there is none afterwards.
    """
    knots_ns = plan.knots_ns
    if not plan.velocities[-1].any():
        knots_ns = np.append(knots_ns, knots_ns[-1] + CONTROL_NS)
        first, last = (np.concatenate([ends, np.zeros_like(ends[:1])]) for ends in (first, last))
    durations_ns = (knots_ns[1:] - knots_ns[:-1])[:, None]
    slope = (last - first) / durations_ns
    changes = []
    for side, ends, at_ns in (("right", first, knots_ns[:-1]), ("left", last, knots_ns[1:])):
        for period_ns in (-CONTROL_NS, CONTROL_NS):
            other_ns = np.minimum(np.maximum(at_ns + period_ns, knots_ns[0]), knots_ns[-1])
            segment = np.minimum(np.maximum(knots_ns.searchsorted(other_ns, side) - 1, 0), len(first) - 1)
            other = first[segment] + (other_ns - knots_ns[segment])[:, None] * slope[segment]
            changes.append(np.abs(other - ends))
    return np.concatenate(changes) / CONTROL_S
