"""Claims: what the comparison is made for, each decided by the 95 % paired-bootstrap interval of a difference.

A claim compares the progress of two methods over the same scenes and tasks. It holds when the interval of the
difference, plus the claim's margin, lies above zero. A goal is a number to reach, and is reached when the mean does.
What was not measured is said to be so.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dreamzero_policy.evaluation.stage import Result
from dreamzero_policy.evaluation.statistics import Estimate, mean, paired_difference, success_rate

Pair = tuple[Result, Result]
Pairs = Sequence[Pair]


@dataclass(frozen=True)
class Claim:
    """`ours` is better than `theirs`, or worse by less than the margin."""

    name: str
    ours: str
    theirs: str
    margin: float = 0.0
    splits: tuple[str, ...] = ()  # empty: all that were measured
    by_window: bool = False  # also over episodes that outlast the model's memory


CLAIMS = (
    Claim("WAM above VLA on unseen progress", "wam-4", "vla-4", splits=("unseen",)),
    Claim("WAM above VLA on unseen progress, 1 step", "wam-1", "vla-1", splits=("unseen",)),
    Claim("Flash 1 within 9 points of 4 steps", "flash-1", "wam-4", margin=0.09),
    Claim("Flash 1 above coupled 1", "flash-1", "wam-1"),
    Claim("injection above no injection", "wam-4", "no-injection-4", by_window=True),
    Claim("injection above no injection, 1 step", "wam-1", "no-injection-1", by_window=True),
)


@dataclass(frozen=True)
class Goal:
    """A number to reach by the method on top on one split, or on what is new there in one way."""

    name: str
    split: str
    quantity: str  # success or progress
    least: float
    novelty: str = ""  # empty: all of the split


GOALS = (
    Goal("seen tasks: success of at least 90 %", "seen", "success", 0.9),
    Goal("unseen tasks: progress of at least 70 %", "unseen", "progress", 0.7),
    Goal("unseen combinations: progress of at least 70 %", "unseen", "progress", 0.7, "combination"),
)


def pairs_of(results: Iterable[Result], ours: str, theirs: str, splits: Sequence[str] = ()) -> list[Pair]:
    """Results of two methods on the same episodes."""
    tables: dict[str, dict[tuple[str, int], Result]] = {ours: {}, theirs: {}}
    for result in results:
        if result.method in tables and (not splits or result.split in splits):
            tables[result.method][result.episode] = result
    return [
        (tables[ours][episode], tables[theirs][episode]) for episode in sorted(tables[ours].keys() & tables[theirs])
    ]


def differences(pairs: Pairs) -> dict[str, Any]:
    """Ours − theirs in progress and in success."""
    return {
        "episodes": len(pairs),
        **{
            quantity: {"difference": estimate.value, "interval": estimate.interval.as_list()}
            for quantity, estimate in (
                ("progress", _difference(pairs, lambda result: result.progress)),
                ("success", _difference(pairs, lambda result: result.success)),
            )
        },
    }


def judged(results: Sequence[Result], window_chunks: int, top: str) -> list[dict[str, Any]]:
    """Every claim with difference, interval and verdict, and what the method on top is to reach.

    `window_chunks`: chunks that the model's memory holds.
    """
    return [_judged_claim(claim, results, window_chunks) for claim in CLAIMS] + [
        _judged_goal(goal, results, top) for goal in GOALS
    ]


def outlast_window(pairs: Pairs, window_chunks: int) -> list[Pair]:
    """Pairs in which one of the two at least went on after its first window.

    To drop a pair as soon as one of the two was short would drop all that one method solved fast and the other did not.
    """
    return [pair for pair in pairs if max(result.chunks for result in pair) > window_chunks]


def _judged_claim(claim: Claim, results: Sequence[Result], window_chunks: int) -> dict[str, Any]:
    pairs = pairs_of(results, claim.ours, claim.theirs, claim.splits)
    document = {"claim": claim.name, "ours": claim.ours, "theirs": claim.theirs, "margin": claim.margin}
    document |= _verdict(pairs, claim.margin)
    if claim.by_window and pairs:
        document["longer_than_a_window"] = _verdict(outlast_window(pairs, window_chunks), claim.margin)
    splits = sorted({ours.split for ours, _ in pairs})
    if len(splits) > 1:
        document["by_split"] = {
            split: _verdict([pair for pair in pairs if pair[0].split == split], claim.margin) for split in splits
        }
    return document


def _verdict(pairs: Pairs, margin: float) -> dict[str, Any]:
    if not pairs:
        return {"verdict": "not measured", "episodes": 0}
    estimate = _difference(pairs, lambda result: result.progress)
    holds = estimate.interval.low + margin > 0
    return {
        "verdict": "holds" if holds else "does not hold",
        "difference": estimate.value,
        "interval": estimate.interval.as_list(),
        "episodes": len(pairs),
    }


def _judged_goal(goal: Goal, results: Sequence[Result], method: str) -> dict[str, Any]:
    measured = [
        result
        for result in results
        if result.method == method and result.split == goal.split and goal.novelty in ("", result.novelty)
    ]
    document: dict[str, Any] = {"claim": goal.name, "ours": method, "least": goal.least}
    if not measured:
        return {**document, "verdict": "not measured", "episodes": 0}
    estimate = estimates(measured)[goal.quantity]
    return {
        **document,
        "verdict": "holds" if estimate.value >= goal.least else "does not hold",
        "difference": estimate.value - goal.least,
        "interval": [end - goal.least for end in estimate.interval.as_list()],
        "episodes": len(measured),
    }


def estimates(results: Sequence[Result]) -> Mapping[str, Estimate]:
    """Success and progress of some episodes."""
    return {
        "success": success_rate(np.array([result.success for result in results])),
        "progress": mean(np.array([result.progress for result in results])),
    }


def _difference(pairs: Pairs, quantity: Callable[[Result], float]) -> Estimate:
    return paired_difference(
        np.array([quantity(ours) for ours, _ in pairs], float),
        np.array([quantity(theirs) for _, theirs in pairs], float),
    )
