"""Braking: a way to rest from a plan under way that ends before the plan's own.

Every joint brakes for itself, which leads the hands off their path. A brake that keeps the robot's workspace and
clearance is preferred; where there is none it brakes all the same.
"""

from collections.abc import Iterator

import ruckig

from dreamzero_policy.runtime.limits import Limits
from dreamzero_policy.runtime.plan import Plan

BRAKE_WITHIN_NS, BRAKE_STEP_NS = 100_000_000, 10_000_000  # a brake that a limit forbids at once is tried a little later


def braked(sent: Plan, first_ns: int, end_ns: int, limits: Limits, step_ns: int) -> Plan | None:
    """The soonest brake inside the limits; None if there is none.

    Args:
        sent: what controllers carry out from now on.
        first_ns: when the first point that can still be told is due.
        end_ns: when the plan ends by itself.
        limits: of the joints and of the robot's shape.
        step_ns: between the knots of the way to rest.
    """
    best = None
    for plan in _brakes(sent, first_ns, end_ns, limits, step_ns):
        if limits.judge_shape(plan):
            return plan
        best = best or plan
    return best


def _brakes(sent: Plan, first_ns: int, end_ns: int, limits: Limits, step_ns: int) -> Iterator[Plan]:
    """Those that every joint's limits allow, the soonest first."""
    for begin_ns in range(first_ns, min(first_ns + BRAKE_WITHIN_NS, end_ns), BRAKE_STEP_NS):
        try:
            plan = sent.until(begin_ns).with_tail(limits.by_joint, step_ns)
        except (ruckig.RuckigError, ValueError):  # no tail inside the limits from there
            continue
        if plan.end_ns < end_ns and limits.judge_joints(plan):
            yield plan
