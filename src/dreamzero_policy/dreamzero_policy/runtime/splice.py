"""The splice: from the plan in execution and a chunk's rows to the next plan, or to the reason why there is none.

There are two kinds of ways into a chunk, tried in a fixed order; the first whose plan, tail included, stays inside the
limits is taken.

1. Cross-fades, shortest first. A fade keeps the chunk's timing and spreads the difference over all of its time; the
   shorter it is, the more rows are executed as the model meant them.
2. A bridge, where even the longest fade breaks a limit. It goes to the first row it can catch up with, as fast as its
   share of the limits allows: it works where fades fail, since it does not follow rows that cannot be followed yet,
   and it is the rougher way for the same reason. So it comes last, just before a rejection.

Where all are refused because joints leave their ranges, and the operator allows it, the same ways are tried with those
joints eased into them (`easing.py`).

Rows that are past are cut by their instants, so a late chunk is entered where it should be by then.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from dreamzero_policy.runtime.chunk import ACCEPTED, Judgement, Verdict
from dreamzero_policy.runtime.easing import eased
from dreamzero_policy.runtime.limits import Limits
from dreamzero_policy.runtime.plan import Plan, Rows

FEWEST_ROWS = 2  # that are still to come: one is no motion


@dataclass(frozen=True, eq=False)
class Splice:
    """What became of a chunk's rows. Without an accepting judgement the plan is the one in execution."""

    judgement: Judgement
    plan: Plan
    start_ns: int  # when the rows take over
    way: str = ""  # into them
    eased: tuple[str, ...] = ()  # joints whose rows were bent off the ends of their ranges


def splice(
    present: Plan, rows: Rows, earliest_ns: int, blends_s: Sequence[float], limits: Limits, easing: float = 0.0
) -> Splice:
    """Follow `present` until a row of a chunk is due, not before `earliest_ns`, then the rows, to rest.

    Args:
        present: from now on; what is past is not judged again.
        rows: all of the chunk's.
        blends_s: cross-fades to try, in this order.
        easing: rows that lead beyond a joint's range by up to this share of its step are eased into it; 0 for none.
    """
    left = rows.since(earliest_ns)
    (position,), _ = present.sample([left.start_ns])
    if len(left.positions) < FEWEST_ROWS:
        reason = f"{len(left.positions)} of {len(rows.positions)} rows are still to come, {FEWEST_ROWS} are needed"
        judgement = Judgement(Verdict.REJECTED_LATE, reason)
    else:
        judgement = limits.judge_rows(left.positions, position)
    return way_into(present, left, blends_s, limits, easing) if judgement else Splice(judgement, present, left.start_ns)


def way_into(present: Plan, rows: Rows, blends_s: Sequence[float], limits: Limits, easing: float = 0.0) -> Splice:
    """The first way into rows that are finite and still to come, however far from the plan they begin.

    A rejection gives the reason of the last cross-fade: what a bridge breaks says more about bridges than about rows.
    """
    found, faded = _first_way(present, rows, blends_s, limits)
    if found.judgement.verdict is not Verdict.REJECTED_POSITION or not easing:
        return found
    leaving = limits.left_by(faded)
    inside = eased(rows.positions, leaving, limits, easing)
    if inside is None:
        return found
    spliced, _ = _first_way(present, replace(rows, positions=inside), blends_s, limits)
    if not spliced.judgement:
        return found
    joints = tuple(joint for joint, leaves in zip(limits.joints, leaving, strict=True) if leaves)
    return replace(spliced, way=f"{spliced.way}, eased off the stop: {', '.join(joints)}", eased=joints)


def _first_way(present: Plan, rows: Rows, blends_s: Sequence[float], limits: Limits) -> tuple[Splice, Plan]:
    """The first way inside the limits, and the longest cross-fade that was tried."""
    last_fade = len(blends_s) - 1
    for number, (way, moving) in enumerate(_ways(present, rows, blends_s, limits)):
        plan, judgement = moving, limits.judge_end(moving)
        if judgement:
            plan = moving.with_tail(limits.by_joint, rows.step_ns)
            judgement = limits.judge(plan) if number == last_fade else limits.keeps(plan)
        if number <= last_fade:
            faded = plan
        if judgement:
            return Splice(ACCEPTED, plan, rows.start_ns, way), faded
        if number == last_fade:
            refusal = judgement
    return Splice(refusal, present, rows.start_ns), faded


def _ways(present: Plan, rows: Rows, blends_s: Sequence[float], limits: Limits) -> Iterator[tuple[str, Plan]]:
    for blend_s, plan in zip(blends_s, present.cross_fades(rows, blends_s), strict=True):
        yield f"cross-fade of {blend_s:g} s", plan
    if (bridge := present.bridge(rows, limits.by_joint)) is not None:
        yield "bridge", bridge
