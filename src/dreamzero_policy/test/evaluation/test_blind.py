"""Motions that look at nothing stay inside the limits and do what they are called."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamzero_policy.data.dataset import open_dataset
from dreamzero_policy.evaluation.blind import (
    MotionError,
    mean_demonstration,
    plan_of,
    random_rows,
    recorded_demonstrations,
)
from dreamzero_policy.evaluation.stage import Job, Setup, Stage
from dreamzero_policy.runtime.contract import Contract, load_contract
from dreamzero_policy.runtime.limits import Limits

SHIPPED = load_contract(Path(__file__).parents[4] / "config" / "agibot_g1.yaml")
LIMITS = Limits(SHIPPED.model.commanded_joints, SHIPPED.site.limits)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.0, 1.0))
def test_random_motion_stays_inside_all_limits_wherever_it_starts(seed: int, where: float) -> None:
    start = LIMITS.lower + where * (LIMITS.upper - LIMITS.lower)
    plan = plan_of(SHIPPED, random_rows(SHIPPED, seed, start, 4.0), start, 1_000)
    assert LIMITS.judge(plan)
    assert np.ptp(plan.positions, axis=0).min() > 0
    assert plan.end_ns > 4_000_000_000


def test_random_motion_is_that_of_its_seed() -> None:
    start = (LIMITS.lower + LIMITS.upper) / 2
    rows = [random_rows(SHIPPED, seed, start, 2.0) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(rows[0], rows[1])
    assert np.abs(rows[0] - rows[2]).max() > 0.1


def test_the_mean_demonstration_is_the_mean_of_all_each_at_rest_when_it_is_over(
    contract: Contract, demonstrations: Path
) -> None:
    short, long = open_dataset(demonstrations, contract).episodes()
    rows = mean_demonstration(recorded_demonstrations(demonstrations, contract))
    arm = slice(0, 14)
    assert len(rows) == long.steps == 90
    np.testing.assert_allclose(rows[:60, arm], (short.action[:, arm] + long.action[:60, arm]) / 2)
    np.testing.assert_allclose(rows[60:, arm], (short.action[-1, arm] + long.action[60:, arm]) / 2)


def test_grippers_of_the_mean_demonstration_are_in_radians(contract: Contract, demonstrations: Path) -> None:
    rows = mean_demonstration(recorded_demonstrations(demonstrations, contract))
    for joint, ends in contract.site.grippers.items():
        column = contract.model.commanded_joints.index(joint)
        assert rows[0, column] == pytest.approx((ends.open_rad + ends.closed_rad) / 2)


def test_a_motion_beyond_the_limits_is_refused_with_joint_and_limit() -> None:
    start = (LIMITS.lower + LIMITS.upper) / 2
    with pytest.raises(MotionError, match="reaches"):
        plan_of(SHIPPED, start + 10.0 * np.linspace(0, 1, 30)[:, None], start, 0)


def test_who_holds_still_does_not_move_and_who_replays_does(
    setup: Setup, contract: Contract, demonstrations: Path
) -> None:
    setup = Setup(
        setup.world,
        setup.contract,
        setup.parameters,
        {},
        replay=mean_demonstration(recorded_demonstrations(demonstrations, contract)),
    )
    stage = Stage(setup)
    still = stage.play(Job("hold", "seen", 0))
    assert (still.outcome.progress, stage.suite.followed, still.chunks) == (0.0, [], 0)
    replay = stage.play(Job("mean-demonstration", "seen", 0))
    assert replay.outcome.progress == pytest.approx((0.06 + 0.12) / 2 / 0.3, abs=1e-3)
    assert stage.suite.pictured_ns == []
