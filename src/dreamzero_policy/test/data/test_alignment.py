"""What alignment promises: data sets are aligned by the rule of the live observation buffer."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamzero_policy.data.alignment import grid, nearest
from dreamzero_policy.data.episodes import EpisodeError
from dreamzero_policy.runtime.observation import NS_PER_S, JointSample, Stream

Stamps = st.lists(st.integers(0, 2000), min_size=1, max_size=30, unique=True).map(sorted)  # ms


@given(stamps=Stamps, instant=st.integers(-50, 2050))
def test_the_nearest_row_is_the_one_the_live_buffer_takes(stamps, instant):
    stream: Stream[JointSample] = Stream(NS_PER_S / 30)
    stream.items.extend(JointSample(stamp * 1_000_000, 0, {}) for stamp in stamps)
    # Seconds as binary fractions, so that a tie in milliseconds is a tie.
    chosen = nearest(np.array(stamps) / 1024, np.array([instant]) / 1024, 10.0, "x")
    assert stamps[chosen[0]] * 1_000_000 == stream.nearest(instant * 1_000_000).stamp_ns


def test_of_two_rows_that_tie_the_earlier_is_taken_as_live():
    stream: Stream[JointSample] = Stream(NS_PER_S / 30)
    stream.items.extend(JointSample(second * NS_PER_S, 0, {}) for second in (1, 2, 3))
    assert stream.nearest(2_500_000_000).stamp_ns == 2 * NS_PER_S
    assert nearest(np.array([1.0, 2.0, 3.0]), np.array([1.5, 2.5]), 1.0, "x").tolist() == [0, 1]


@given(stamps=Stamps, instant=st.integers(-50, 2050), tolerance=st.integers(1, 40))
def test_nothing_farther_than_the_tolerance_is_taken(stamps, instant, tolerance):
    gap = min(abs(stamp - instant) for stamp in stamps)
    arguments = np.array(stamps) / 1e3, np.array([instant / 1e3]), tolerance / 1e3, "episode a: camera head"
    if gap <= tolerance:
        assert abs(stamps[nearest(*arguments)[0]] - instant) == gap
    else:
        with pytest.raises(EpisodeError, match=r"episode a: camera head: nothing at .* tolerance"):
            nearest(*arguments)


@given(steps=st.integers(1, 3000), rate=st.sampled_from([10.0, 15.0, 30.0, 50.0]))
def test_a_data_set_at_the_contracts_rate_keeps_every_row(steps, rate):
    stamps = (np.arange(steps) / rate).astype(np.float32).astype(np.float64)  # as data sets store them
    instants = grid(stamps[0], stamps[-1], rate)
    np.testing.assert_array_equal(nearest(stamps, instants, 0.01, "x"), np.arange(steps))
