"""Rows that lead a little beyond a joint's range: bent before its end, told, and never let out."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamzero_policy.runtime.chunk import Verdict
from dreamzero_policy.runtime.contract import JointLimits
from dreamzero_policy.runtime.easing import eased
from dreamzero_policy.runtime.limits import Limits
from dreamzero_policy.runtime.observation import NS_PER_S
from dreamzero_policy.runtime.plan import Plan, Rows, smootherstep
from dreamzero_policy.runtime.splice import Splice, splice

STEP_NS = NS_PER_S // 30
BEGIN_NS = 50 * NS_PER_S
LIMIT = JointLimits(lower=-1.0, upper=1.0, velocity=3.0, acceleration=10.0, jerk=400.0, step=0.24)
LIMITS = Limits(("a", "b"), {"a": LIMIT, "b": LIMIT})
BOTH, FIRST = np.array([True, True]), np.array([True, False])


def way(begin: float, end: float) -> np.ndarray:
    """Rows of joint a from rest to rest; joint b stands at 0.5."""
    return np.stack([begin + (end - begin) * smootherstep(np.arange(24) / 23), np.full(24, 0.5)], axis=1)


def into(rows: np.ndarray, easing: float) -> Splice:
    return splice(Plan.rest(rows[0], BEGIN_NS), Rows(rows, BEGIN_NS, STEP_NS), BEGIN_NS, (0.2, 0.6), LIMITS, easing)


@given(st.lists(st.floats(-1.119, 1.119), min_size=2, max_size=24))
@settings(deadline=None)
def test_eased_rows_keep_their_order_end_inside_the_range_and_are_the_same_far_from_its_ends(
    values: list[float],
) -> None:
    rows = np.sort(np.array(values))[:, None].repeat(2, axis=1)
    inside = eased(rows, BOTH, LIMITS, 0.5)
    assert (np.abs(inside) < 1.0).all()
    assert (np.diff(inside, axis=0) >= 0).all()
    far = np.abs(rows) < 0.75  # more than a step from the ends: within s e^-8
    np.testing.assert_allclose(inside[far], rows[far], atol=2e-5)


def test_a_row_that_asks_for_the_end_stands_a_little_before_it_and_other_joints_are_left_alone() -> None:
    inside = eased(np.array([[1.0, 1.0]]), FIRST, LIMITS, 0.5)
    np.testing.assert_allclose(inside, [[1 - 0.03 * np.log(2), 1.0]])


def test_a_row_beyond_by_more_than_the_share_of_a_step_is_not_eased() -> None:
    assert eased(np.array([[1.11, 0.0]]), FIRST, LIMITS, 0.5) is not None
    assert eased(np.array([[1.13, 0.0]]), FIRST, LIMITS, 0.5) is None
    assert eased(np.array([[-1.13, 0.0]]), FIRST, LIMITS, 0.5) is None


def test_a_chunk_into_a_stop_is_refused_or_eased_off_it_as_the_operator_says() -> None:
    rows = way(0.8, 1.05)
    refused = into(rows, 0.0)
    assert refused.judgement.verdict is Verdict.REJECTED_POSITION
    assert refused.judgement.reason == "a reaches 1.0500, limits -1.0000 to 1.0000"
    spliced = into(rows, 0.5)
    assert spliced.judgement and spliced.way == "cross-fade of 0.2 s, eased off the stop: a"
    positions, _ = spliced.plan.sample(BEGIN_NS + STEP_NS * np.arange(60))
    assert 0.98 < positions[:, 0].max() < 1.0
    np.testing.assert_allclose(positions[:, 1], 0.5, atol=1e-9)


def test_a_joint_that_stands_at_its_stop_and_is_asked_to_stay_beyond_comes_off_it() -> None:
    rows = np.tile([1.06, 0.5], (24, 1))
    rows[:, 0] -= 0.01 * smootherstep(np.arange(24) / 23)  # 1.06 to 1.05
    spliced = splice(
        Plan.rest(np.array([0.999, 0.5]), BEGIN_NS), Rows(rows, BEGIN_NS, STEP_NS), BEGIN_NS, (0.2, 0.6), LIMITS, 0.5
    )
    assert spliced.judgement
    assert spliced.plan.positions[-1, 0] == pytest.approx(0.995, abs=4e-3)


def test_what_is_inside_or_far_beyond_is_as_it_was_without_easing() -> None:
    for rows in (way(0.2, 0.9), way(0.8, 1.2)):
        without, with_it = into(rows, 0.0), into(rows, 0.5)
        assert (with_it.judgement, with_it.way) == (without.judgement, without.way)
        np.testing.assert_array_equal(with_it.plan.positions, without.plan.positions)


@given(st.floats(-0.99, 0.99), st.floats(-1.12, 1.12), st.floats(-1.12, 1.12))
@settings(deadline=None, max_examples=200)
def test_whatever_is_accepted_keeps_inside_all_limits(begin: float, end: float, other: float) -> None:
    rows = np.stack([way(begin, end)[:, 0], way(begin, other)[:, 0]], axis=1)
    spliced = into(rows, 0.5)
    assert LIMITS.judge(spliced.plan)
