"""What streaming quantiles promise: numpy's answer to a fine share of the range, in any order, in constant memory."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamzero_policy.data.quantiles import BINS, StreamingQuantiles

Values = st.lists(st.floats(-50, 50, allow_nan=False, width=32), min_size=1, max_size=80)


def made_of(*parts: np.ndarray) -> StreamingQuantiles:
    quantiles = StreamingQuantiles(1)
    for part in parts:
        quantiles.add(np.reshape(part, (-1, 1)))
    return quantiles


@settings(max_examples=60, deadline=None)
@given(values=Values, share=st.sampled_from([0.0, 0.01, 0.5, 0.99, 1.0]))
def test_the_answer_is_numpys_to_a_fine_share_of_the_range(values, share):
    grain = 4 * np.ptp(values) / BINS + 1e-11
    assert abs(made_of(values).at(share)[0] - np.quantile(values, share)) <= grain


@settings(max_examples=40, deadline=None)
@given(values=Values, cut=st.integers(0, 80))
def test_the_order_of_the_rows_does_not_matter(values, cut):
    one, other = made_of(values), made_of(values[cut:], values[:cut])
    assert [one.at(share)[0] for share in (0.01, 0.5, 0.99)] == [other.at(share)[0] for share in (0.01, 0.5, 0.99)]


def test_an_entry_that_never_changes_is_that_entry():
    quantiles = made_of(np.full(1000, 0.1), np.full(1000, 0.1))
    assert [quantiles.at(share)[0] for share in (0.01, 0.5, 0.99)] == [0.1, 0.1, 0.1]


def test_memory_does_not_grow_with_the_rows():
    quantiles, rng = StreamingQuantiles(3), np.random.default_rng(0)
    sizes = set()
    for _ in range(20):
        quantiles.add(rng.normal(size=(5000, 3)) * [1e-3, 1, 100])
        sizes.add(sum(value.nbytes for value in vars(quantiles).values() if isinstance(value, np.ndarray)))
    assert len(sizes) == 1
    np.testing.assert_allclose(quantiles.at(0.99), 2.326 * np.array([1e-3, 1, 100]), rtol=0.02)
    assert quantiles.count == 100_000


def test_large_offsets_do_not_overflow():
    assert made_of(np.array([1e12, 1e12 + 1])).at(0.5)[0] == pytest.approx(1e12, rel=1e-6)
