"""Intervals against known values and against the laws they obey."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamzero_policy.evaluation.statistics import mean, paired_difference, success_rate, wilson

PROGRESS = st.lists(st.floats(0, 1), min_size=1, max_size=20)


@pytest.mark.parametrize(
    ("successes", "episodes", "low", "high"),
    [(27, 30, 0.7438, 0.9654), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (180, 200, 0.8506, 0.9343)],
)
def test_wilson_gives_the_published_intervals(successes: int, episodes: int, low: float, high: float) -> None:
    interval = wilson(successes, episodes)
    assert interval.low == pytest.approx(low, abs=1e-4)
    assert interval.high == pytest.approx(high, abs=1e-4)


@given(st.integers(1, 500), st.data())
def test_wilson_holds_the_rate_and_mirrors_failures(episodes: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, episodes))
    interval, mirrored = wilson(successes, episodes), wilson(episodes - successes, episodes)
    assert 0 <= interval.low <= successes / episodes <= interval.high <= 1
    assert interval.low == pytest.approx(1 - mirrored.high, abs=1e-12)


def test_a_rate_without_episodes_is_refused() -> None:
    with pytest.raises(ValueError, match="n"):
        wilson(0, 0)


def test_success_is_counted() -> None:
    estimate = success_rate(np.array([True, False, True, True]))
    assert (estimate.value, estimate.interval) == (0.75, wilson(3, 4))


@settings(max_examples=20, deadline=None)
@given(PROGRESS)
def test_the_bootstrap_stays_among_the_values_and_repeats_itself(values: list[float]) -> None:
    estimate = mean(np.array(values))
    low, high = estimate.interval.as_list()
    assert min(values) - 1e-12 <= low <= high <= max(values) + 1e-12
    assert mean(np.array(values)) == estimate


def test_the_bootstrap_agrees_with_the_normal_interval_of_many_values() -> None:
    values = np.random.default_rng(0).uniform(size=400)
    half = 1.96 * values.std() / np.sqrt(len(values))
    low, high = mean(values).interval.as_list()
    assert low == pytest.approx(values.mean() - half, abs=2e-3)
    assert high == pytest.approx(values.mean() + half, abs=2e-3)


def test_about_95_of_100_intervals_hold_the_truth() -> None:
    rng = np.random.default_rng(1)
    inside = [low <= 0.5 <= high for low, high in (mean(rng.uniform(size=40)).interval.as_list() for _ in range(60))]
    assert 0.87 <= np.mean(inside) <= 1.0


@settings(max_examples=20, deadline=None)
@given(PROGRESS, st.randoms(use_true_random=False))
def test_a_difference_turned_around_is_the_same_with_the_other_sign(values: list[float], random) -> None:
    others = random.sample(values, len(values))
    there, back = paired_difference(values, others), paired_difference(others, values)
    assert there.value == pytest.approx(-back.value, abs=1e-12)
    assert there.interval.low == pytest.approx(-back.interval.high, abs=1e-12)


def test_pairing_finds_a_small_difference_that_the_scatter_of_episodes_would_hide() -> None:
    theirs = np.random.default_rng(2).uniform(0, 0.9, size=50)
    ours = theirs + 0.05
    assert paired_difference(ours, theirs).interval.low == pytest.approx(0.05)
    assert mean(ours).interval.low < mean(theirs).interval.high
