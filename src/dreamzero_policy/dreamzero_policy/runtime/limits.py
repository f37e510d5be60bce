"""Limits: the one gate every plan passes before a world acts on it.

A plan is accepted whole or rejected whole, with a numbered verdict and a reason that names joint, value and limit.
Nothing is clamped and nothing is replaced. Extremes of a piecewise cubic are exact: acceleration is linear in each
segment, velocity has its extreme where acceleration vanishes, position is checked at knots and at nine points
between.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dreamzero_policy.runtime.chunk import Verdict
from dreamzero_policy.runtime.contract import JointLimits
from dreamzero_policy.runtime.embodiment import Floats
from dreamzero_policy.runtime.plan import Plan

POINTS_BETWEEN_KNOTS = 9
ROUNDING = 1e-9
_S = np.linspace(0, 1, POINTS_BETWEEN_KNOTS + 2)[1:-1]
# Weights of both positions and both velocities (times the segment's duration) at the points between two knots.
BASIS = np.stack([1 - 3 * _S**2 + 2 * _S**3, 3 * _S**2 - 2 * _S**3, _S - 2 * _S**2 + _S**3, _S**3 - _S**2], axis=1)
START_EXCESS = 0.01  # [rad, m] a joint that stands outside its range may move back in, never farther out than this


@dataclass(frozen=True)
class Judgement:
    verdict: Verdict
    reason: str = ""

    def __bool__(self) -> bool:
        return self.verdict is Verdict.ACCEPTED


ACCEPTED = Judgement(Verdict.ACCEPTED)


class Limits:
    """The limits of the commanded joints, in their order."""

    def __init__(self, joints: Sequence[str], limits: Mapping[str, JointLimits]) -> None:
        self.joints = tuple(joints)
        self.by_joint = tuple(limits[joint] for joint in joints)
        self.lower, self.upper, self.velocity, self.acceleration, self.step = (
            np.array([getattr(limit, name) for limit in self.by_joint])
            for name in ("lower", "upper", "velocity", "acceleration", "step")
        )

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

    def judge_range(self, rows: Floats) -> Judgement:
        """Rows [·, J] that will be executed as they are, against the position limits: a cheap first look."""
        outside = np.maximum(rows - self.upper, self.lower - rows) - START_EXCESS
        if (outside <= 0).all():
            return ACCEPTED
        row, joint = np.unravel_index(np.argmax(outside), outside.shape)
        return self._out_of_range(joint, rows[row, joint])

    def judge(self, plan: Plan) -> Judgement:
        """Position, velocity and acceleration of a whole plan; hand over what is still to be executed."""
        positions = _finely(plan)
        upper = self.upper + np.where(positions[0] > self.upper, START_EXCESS, 0.0)
        lower = self.lower - np.where(positions[0] < self.lower, START_EXCESS, 0.0)
        outside = np.maximum(positions - upper, lower - positions)
        if (outside > ROUNDING).any():
            row, joint = np.unravel_index(np.argmax(outside), outside.shape)
            return self._out_of_range(joint, positions[row, joint])
        if len(plan.knots_ns) == 1:
            return ACCEPTED
        first, last = plan.accelerations()
        return self._judge(
            Verdict.REJECTED_VELOCITY, _fastest(plan, first, last), self.velocity, "reaches the speed"
        ) and self._judge(
            Verdict.REJECTED_ACCELERATION,
            np.maximum(np.abs(first), np.abs(last)),
            self.acceleration,
            "reaches the acceleration",
        )

    def _out_of_range(self, joint: int, position: float) -> Judgement:
        return Judgement(
            Verdict.REJECTED_POSITION,
            f"{self.joints[joint]} reaches {position:.4f}, limits {self.lower[joint]:.4f} to {self.upper[joint]:.4f}",
        )

    def _judge(self, verdict: Verdict, values: Floats, limit: Floats, what: str) -> Judgement:
        excess = values - limit
        if (excess <= ROUNDING).all():
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
