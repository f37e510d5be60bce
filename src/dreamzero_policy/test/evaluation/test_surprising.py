"""Counting alarms: what was noticed in time, what was not, and what was said for nothing."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from dreamzero_policy.evaluation.stage import Setup, Stage
from dreamzero_policy.evaluation.suite import SuiteError
from dreamzero_policy.evaluation.surprising import (
    NOTHING,
    DisturbedWorld,
    Plan,
    Told,
    counted,
    false_alarms,
    separation,
    try_out,
)
from dreamzero_policy.runtime.calibration import Calibration
from dreamzero_policy.runtime.observation import NS_PER_S

from .fake_suite import FakeSuite, ShakenSuite

PLAN = Plan("seen", 0, 2, 3, 1, at_s=2.0, within_s=1.5, percentiles=(99.0,), blocks=(1, 2))


def cells_of(difference: float) -> np.ndarray:
    return np.full((2, 4, 4), difference, np.float32)


NORMAL = Calibration.of(
    [[cells_of(size) for size in np.random.default_rng(seed).uniform(0.3, 0.7, 200)] for seed in range(2)],
    np.zeros((4, 4), int),
    contract_hash="",
    checkpoint_hash="",
    denoise_steps=1,
    regimes=(),
)


def told(seed: int, happened: str, differences: list[float], end_s: float = 6.0) -> Told:
    """A block every half second, told from the instant on at which something happens less two seconds."""
    first_s = PLAN.instant_s(seed) - 2.0
    instants_s = tuple(first_s + 0.5 * (i + 1) for i in range(len(differences)))
    return Told(seed, happened, instants_s, tuple(map(cells_of, differences)), end_s)


QUIET, ODD = 0.5, 3.0
TESTED = {
    (2, NOTHING): told(2, NOTHING, [QUIET] * 8),
    (2, "push"): told(2, "push", [QUIET] * 4 + [ODD, ODD] + [QUIET] * 2),  # known half a second and a second behind
    (3, NOTHING): told(3, NOTHING, [QUIET] * 5 + [ODD] + [QUIET] * 2),  # once, for nothing
    (3, "push"): told(3, "push", [ODD] + [QUIET] * 6 + [ODD]),  # before it happened, and too late
    (4, NOTHING): told(4, NOTHING, [QUIET] * 2, end_s=1.5),
    (4, "push"): told(4, "push", [QUIET] * 2, end_s=1.5),  # over before it happened
}


def test_an_alarm_counts_as_detection_only_in_time() -> None:
    one, two = (counted(PLAN, NORMAL, TESTED, "push", 99.0, blocks) for blocks in (1, 2))
    assert (one["episodes"], one["detected"], one["detection"], one["median_delay_s"]) == (
        2,
        1,
        0.5,
        pytest.approx(0.5),
    )
    assert (two["detected"], two["median_delay_s"]) == (1, pytest.approx(1.0))
    assert (one["undisturbed_alarms"], two["undisturbed_alarms"]) == (1, 0)


def test_separation_is_the_share_of_pairs_in_which_the_disturbed_one_scores_higher() -> None:
    found = separation(PLAN, NORMAL, TESTED, "push")
    # Seed 2 alone is odd in its time; among the undisturbed seed 3 is as odd. Seed 4 was over before.
    assert (found["episodes"], found["undisturbed"]) == (2, 2)
    assert found["by_distance"] == (1 + 0.5 + 0.5 + 0) / 4
    assert found["by_score"] in (0.5, (1 + 1 + 0.5 + 0) / 4)  # a second odd block in a row may score a little more


def test_false_alarms_are_those_of_episodes_in_which_nothing_happened() -> None:
    undisturbed = [TESTED[seed, NOTHING] for seed in (2, 3, 4)]
    one, two = (false_alarms(NORMAL, undisturbed, 99.0, blocks) for blocks in (1, 2))
    assert (one["alarms"], one["episodes_with_alarm"], one["episodes"]) == (1, 1, 3)
    assert one["alarms_per_minute"] == pytest.approx(60 / 13.5)
    assert two["alarms"] == 0


def test_something_happens_once_and_at_its_instant() -> None:
    suite = ShakenSuite()
    suite.reset("seen", 0)
    world = DisturbedWorld(suite, None, "dark", 2 * NS_PER_S)
    for instant_s in (1.0, 1.9, 2.3, 3.0):
        world.advance_to(round(instant_s * NS_PER_S))
    assert suite.happened == (("dark", 2 * NS_PER_S),) and world.ns == 3 * NS_PER_S


def test_a_suite_in_which_nothing_can_happen_is_refused() -> None:
    stage = SimpleNamespace(suite=FakeSuite(), setup=SimpleNamespace(world="fake"))
    with pytest.raises(SuiteError, match="fake has no disturbances"):
        try_out(stage, PLAN)


def test_normal_and_disturbed_episodes_are_played_and_counted(setup: Setup) -> None:
    stage = Stage(replace(setup, world=f"{Path(__file__).with_name('fake_suite.py')}:ShakenSuite"))
    plan = replace(PLAN, normal=20, episodes=1, percentiles=(90.0,), blocks=(1,))
    played: list[Told] = []
    document = try_out(stage, plan, played.append)
    assert [each.happened for each in played] == [NOTHING] * 21 + ["dark"]
    assert document["normal_blocks"] == sum(len(each.cells) for each in played[:20]) > 20
    before = sum(at_s <= plan.instant_s(20) for at_s in played[-1].instants_s)
    np.testing.assert_array_equal(played[-1].cells[:before], played[-2].cells[:before])
    assert before >= 1
    assert document["rows"][0]["disturbance"] == "dark" and document["false_alarms"][0]["episodes"] == 1
