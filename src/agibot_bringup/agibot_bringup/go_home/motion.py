"""The way home: all joints together, on a straight line in joint space, from rest to rest, jerk-limited.

One number, the share of the way that is behind, rises from 0 to 1 by ruckig's profile. Every joint is that share of
its own way farther, so the slowest joint sets the pace, all arrive together, and a hand goes where it can be foreseen.
A way that takes longer than a trajectory may last is cut into legs, each from rest to rest.

Nothing is planned around: whoever stands in the way is met. The limits judge every leg, and so the robot's own shape
where they are given a geometry.
"""

from itertools import count, pairwise

import numpy as np
import ruckig

from dreamzero_policy.runtime.chunk import Judgement
from dreamzero_policy.runtime.embodiment import Floats
from dreamzero_policy.runtime.limits import Limits
from dreamzero_policy.runtime.observation import NS_PER_S
from dreamzero_policy.runtime.plan import JERK_SHARE, SHARE, Plan

KNOT_NS = 20_000_000  # between points of a trajectory
FIRST_NS = 100_000_000  # how far ahead the first point lies: until then a controller comes to where the joints are
BRAKE_FIRST_NS = 50_000_000  # the same when the robot is to be stopped
NEAR = 1e-4  # [rad, m] that is at home


class NoWay(Exception):  # noqa: N818 (an answer)
    """The limits or the robot's shape forbid the straight way; the text says which, with both values."""


def legs(present: Floats, home: Floats, limits: Limits, speed_share: float, max_leg_s: float) -> list[Plan]:
    """The legs of the way, whose times begin at 0; none where the joints [J] are at home already.

    With `speed_share` everything takes 1 / `speed_share` times as long as the limits would allow.

    Raises:
        NoWay: a leg is rejected.
    """
    if (np.abs(home - present) <= NEAR).all():
        return []
    for parts in count(1):
        share = np.linspace(0, 1, parts + 1)[:, None]
        stops = present + share * (home - present)
        way = [_leg(begin, end, limits, speed_share) for begin, end in pairwise(stops)]
        if max(leg.end_ns for leg in way) <= max_leg_s * NS_PER_S:
            break
    for leg in way:
        if not (judgement := limits.judge(leg)):
            raise NoWay(judgement.reason)
    return way


def braked(leg: Plan, limits: Limits, now_ns: int) -> Plan | None:
    """What to send to be at rest soonest, on the leg's own clock; None where the leg is as good as over."""
    first_ns = now_ns + BRAKE_FIRST_NS
    if first_ns >= leg.end_ns:
        return None
    try:
        rest = leg.until(first_ns).with_tail(limits.by_joint, KNOT_NS).after(first_ns)
    except (ruckig.RuckigError, ValueError):
        return None
    judgement: Judgement = limits.judge(rest)
    return rest if judgement and rest.end_ns < leg.end_ns else None


def _leg(begin: Floats, end: Floats, limits: Limits, speed_share: float) -> Plan:
    way = end - begin
    longest = np.maximum(np.abs(way), 1e-12)
    profile = ruckig.InputParameter(1)
    profile.target_position = [1.0]
    profile.max_velocity = [speed_share * SHARE * float((limits.velocity / longest).min())]
    profile.max_acceleration = [speed_share**2 * SHARE * float((limits.acceleration / longest).min())]
    profile.max_jerk = [speed_share**3 * JERK_SHARE * float((limits.jerk / longest).min())]
    path = ruckig.Trajectory(1)
    ruckig.Ruckig(1).calculate(profile, path)
    steps = max(1, int(np.ceil(path.duration * NS_PER_S / KNOT_NS)))
    knots_ns = FIRST_NS + KNOT_NS * np.arange(steps + 1)
    samples = [path.at_time(min(step * KNOT_NS / NS_PER_S, path.duration))[:2] for step in range(steps + 1)]
    shares, rates = (np.array(column) for column in zip(*samples, strict=True))
    rates[-1] = 0.0
    return Plan(
        np.append(0, knots_ns),
        np.concatenate([begin[None], begin + shares * way]),
        np.concatenate([np.zeros((1, len(way))), rates * way]),
    )
