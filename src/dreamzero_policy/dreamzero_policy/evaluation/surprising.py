"""How well surprise is noticed: episodes in which something happens, beside the same episodes in which nothing does.

Normal episodes of other seeds are the calibration. Every test episode is then played undisturbed and once with each
disturbance of the suite, at the same instant, which its seed draws: where it falls among the blocks decides how much of
it a block sees. An alarm is what makes the node warn or hold: `blocks` in a row at or beyond a percentile. Detection is
the share of disturbed episodes with an alarm within a time of the disturbance; the share of their undisturbed twins
with one in the same time stands beside it. `separation` needs no limit: how often the largest score of that time is
larger in a disturbed episode than in an undisturbed one, over all pairs (the area under the curve of detection over
false alarms; a half is chance); the same of the plain distance, which knows no cells, stands beside it. Differences are
kept, so that everything is counted over the same episodes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np

from dreamzero_policy.evaluation.closed_loop import Episode, Footage, SuiteWorld
from dreamzero_policy.evaluation.policies import SessionPolicy
from dreamzero_policy.evaluation.stage import Stage
from dreamzero_policy.evaluation.suite import Suite, SuiteError
from dreamzero_policy.runtime.calibration import Calibration, CalibrationError, Cells, distance
from dreamzero_policy.runtime.canvas import cameras_of_cells
from dreamzero_policy.runtime.contract import Contract
from dreamzero_policy.runtime.observation import NS_PER_S
from dreamzero_policy.runtime.surprise import WARN, SurpriseSettings, SurpriseWatch

NOTHING = "nothing"
Scores = Callable[[Sequence[Cells]], list[float]]  # of all blocks of an episode


@dataclass(frozen=True)
class Plan:
    """What is played."""

    split: str
    first_seed: int
    normal: int  # episodes for the calibration
    episodes: int  # tested, each undisturbed and with every disturbance
    steps: int
    at_s: float  # when it happens at the earliest; a second later at the latest
    within_s: float  # in which an alarm counts as its detection
    percentiles: tuple[float, ...]
    blocks: tuple[int, ...]

    def instant_s(self, seed: int) -> float:
        """When it happens in an episode."""
        return self.at_s + float(np.random.default_rng(seed).uniform())

    @property
    def normal_seeds(self) -> range:
        return range(self.first_seed, self.first_seed + self.normal)

    @property
    def test_seeds(self) -> range:
        return range(self.first_seed + self.normal, self.first_seed + self.normal + self.episodes)


@dataclass(frozen=True)
class Told:
    """One episode's differences, with the instants at which they were known, and when it was over [s]."""

    seed: int
    happened: str
    instants_s: tuple[float, ...]
    cells: tuple[Cells, ...]  # [f, h, w] of every block
    end_s: float

    def largest(self, begin_s: float, seconds: float, scores: Scores) -> float | None:
        """The largest score that was known within so many seconds from an instant; None where nothing was."""
        known = zip(self.instants_s, scores(self.cells), strict=True)
        return max((score for at_s, score in known if 0 <= at_s - begin_s <= seconds), default=None)


class DisturbedWorld(SuiteWorld):
    """A suite in which something happens at an instant."""

    def __init__(self, suite: Suite, contract: Contract, kind: str, at_ns: int, footage: Footage | None = None) -> None:
        super().__init__(suite, contract, footage)
        self._kind, self._at_ns = kind, at_ns

    def advance_to(self, instant_ns: int) -> None:
        if self._kind != NOTHING and instant_ns >= self._at_ns:
            super().advance_to(self._at_ns)
            self.suite.disturb(self._kind)
            self._kind = NOTHING
        super().advance_to(instant_ns)


def watched(stage: Stage, plan: Plan, seed: int, kind: str) -> Told:
    """Play one episode. Raises SuiteError, CheckpointError, ContractError."""
    task = stage.suite.reset(plan.split, seed)
    if kind != NOTHING:  # what is later than that is counted nowhere
        task = replace(task, duration_s=min(task.duration_s, plan.instant_s(seed) + plan.within_s))
    world = DisturbedWorld(stage.suite, stage.contract, kind, round(plan.instant_s(seed) * NS_PER_S))
    (weights,) = stage.setup.weights
    model, embodiment = stage.model(weights)
    latency_ns = round(stage.setup.latency_s * NS_PER_S)
    policy = SessionPolicy(model, world.now_ns, latency_ns, tells_surprise=True)
    told: list[tuple[float, Cells]] = []

    def take_note(cells: Cells) -> None:
        told.append((world.ns / NS_PER_S, cells))

    played = Episode(world, embodiment, policy, stage.parameters, plan.steps, take_note).play(task)
    instants_s, cells = zip(*told, strict=True) if told else ((), ())
    return Told(seed, kind, instants_s, cells, played.seconds)


def try_out(stage: Stage, plan: Plan, notice: Callable[[Told], None] = lambda told: None) -> dict[str, Any]:
    """Play all of it and count.

    Raises:
        SuiteError: the suite cannot be disturbed.
        CalibrationError: too few normal blocks for a percentile, or none.
    """
    kinds = getattr(stage.suite, "disturbances", None)
    if not kinds:
        raise SuiteError(f"{stage.setup.world} has no disturbances: nothing can happen in it")

    def play(seed: int, kind: str) -> Told:
        told = watched(stage, plan, seed, kind)
        notice(told)
        return told

    normal = [play(seed, NOTHING) for seed in plan.normal_seeds]
    grid = next((told.cells[0].shape[1:] for told in normal if told.cells), None)
    if grid is None:
        raise CalibrationError(f"no block was compared in {plan.normal} undisturbed episodes; play more with --normal")
    calibration = Calibration.of(
        [told.cells for told in normal],
        cameras_of_cells(stage.contract.model, grid),
        contract_hash=stage.contract.hash,
        checkpoint_hash="",
        denoise_steps=plan.steps,
        regimes=(stage.parameters.loop.regime.regime,),
    )
    tested = {(seed, kind): play(seed, kind) for seed in plan.test_seeds for kind in (NOTHING, *kinds)}
    return {
        "normal_blocks": calibration.blocks,
        "median_score": calibration.scores[50],
        "separation": [separation(plan, calibration, tested, kind) for kind in kinds],
        "rows": [
            counted(plan, calibration, tested, kind, percentile, blocks)
            for kind, percentile, blocks in product(kinds, plan.percentiles, plan.blocks)
        ],
        "false_alarms": [
            false_alarms(calibration, [told for told in tested.values() if told.happened == NOTHING], *limits)
            for limits in product(plan.percentiles, plan.blocks)
        ],
    }


def alarms_s(told: Told, calibration: Calibration, percentile: float, blocks: int) -> list[float]:
    """When the node would have warned."""
    watch = SurpriseWatch(SurpriseSettings(WARN, percentile, blocks), calibration)
    return [at_s for at_s, cells in zip(told.instants_s, told.cells, strict=True) if watch.add(cells)]


def separation(plan: Plan, calibration: Calibration, tested: dict[tuple[int, str], Told], kind: str) -> dict[str, Any]:
    """How well the largest score, or distance, within the time tells disturbed episodes from undisturbed ones."""
    found: dict[str, Any] = {"disturbance": kind}
    ways: dict[str, Scores] = {
        "by_score": calibration.cells.scores,
        "by_distance": lambda run: [distance(cells) for cells in run],
    }
    for name, scores in ways.items():
        largest = {
            happened: [
                tested[seed, happened].largest(plan.instant_s(seed), plan.within_s, scores) for seed in plan.test_seeds
            ]
            for happened in (kind, NOTHING)
        }
        there, none = (np.array([v for v in values if v is not None]) for values in largest.values())
        pairs = np.sign(there[:, None] - none[None, :])
        found |= {"episodes": len(there), "undisturbed": len(none)}
        found[name] = float((1 + pairs.mean()) / 2) if pairs.size else None
    return found


def counted(
    plan: Plan,
    calibration: Calibration,
    tested: dict[tuple[int, str], Told],
    kind: str,
    percentile: float,
    blocks: int,
) -> dict[str, Any]:
    """Detection of one disturbance by one pair of limits. An episode that was over before it happened is left out."""

    def first(told: Told) -> float | None:
        behind = (at_s - plan.instant_s(told.seed) for at_s in alarms_s(told, calibration, percentile, blocks))
        return next((after_s for after_s in behind if 0 <= after_s <= plan.within_s), None)

    seeds = [seed for seed in plan.test_seeds if tested[seed, kind].end_s > plan.instant_s(seed)]
    delays_s = [first(tested[seed, kind]) for seed in seeds]
    found_s = [delay_s for delay_s in delays_s if delay_s is not None]
    return {
        "disturbance": kind,
        "percentile": percentile,
        "blocks": blocks,
        "episodes": len(seeds),
        "detected": len(found_s),
        "detection": len(found_s) / len(seeds) if seeds else None,
        "undisturbed_alarms": sum(first(tested[seed, NOTHING]) is not None for seed in seeds),
        "median_delay_s": float(np.median(found_s)) if found_s else None,
    }


def false_alarms(
    calibration: Calibration, undisturbed: Sequence[Told], percentile: float, blocks: int
) -> dict[str, Any]:
    """Alarms in episodes in which nothing happened, of which the calibration knows nothing."""
    alarms = [len(alarms_s(told, calibration, percentile, blocks)) for told in undisturbed]
    minutes = sum(told.end_s for told in undisturbed) / 60
    return {
        "percentile": percentile,
        "blocks": blocks,
        "alarms": sum(alarms),
        "alarms_per_minute": sum(alarms) / minutes if minutes else None,
        "episodes_with_alarm": sum(map(bool, alarms)),
        "episodes": len(alarms),
    }
