"""A chunk whose first actions are settled: they come out as given, the others follow, and nothing else changes."""

from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dreamzero_policy.inference.cuda_graphs import graph_denoising
from dreamzero_policy.inference.denoising import soft_weights
from dreamzero_policy.inference.loading import Policy, load_policy
from dreamzero_policy.inference.session import Session
from dreamzero_policy.runtime.policy import ActionPrefix

STATE = np.linspace(-1, 1, 20, dtype=np.float32)
ROWS, WIDTH = 3, 5  # of a chunk's actions, here
COLUMNS = np.array([3, 0, 2])

few = settings(deadline=None, max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])


def opened(policy: Policy, frames: np.ndarray, **options: object) -> Session:
    session = Session(policy, "push", **options)
    session.observe(frames[0][:1])
    return session


def prefix(rows: int, value: float = 0.7, columns: np.ndarray = COLUMNS, soft: int = 0) -> ActionPrefix:
    values = value + 0.1 * np.arange(rows * len(columns), dtype=np.float32).reshape(rows, len(columns))
    return ActionPrefix(values, columns, soft)


@pytest.mark.parametrize("cfg_scale", [1.0, 2.0])
def test_an_empty_prefix_is_none_to_the_last_bit(policy, frames, cfg_scale):
    session = opened(policy, frames, cfg_scale=cfg_scale)
    plain = session.predict(STATE)
    for empty in (prefix(0), prefix(2, columns=COLUMNS[:0])):
        given_none = session.predict(STATE, prefix=empty)
        assert np.array_equal(given_none.actions, plain.actions)
        assert np.array_equal(given_none.video_latents, plain.video_latents)
    assert (plain.held_rows, session.predict(STATE, prefix=prefix(0)).held_rows) == (0, 0)


@given(rows=st.integers(1, ROWS), value=st.floats(-50, 50, width=32), steps=st.sampled_from([1, 2, 16]))
@few
def test_held_rows_come_out_as_given_wherever_they_lie_and_cost_no_evaluation(policy, frames, rows, value, steps):
    session, given_rows = opened(policy, frames), prefix(rows, value)
    with patch.object(policy.transformer, "denoise", wraps=policy.transformer.denoise) as denoise:
        prediction = session.predict(STATE, steps=steps, prefix=given_rows)
    assert np.array_equal(prediction.actions[:rows, COLUMNS], given_rows.rows)
    assert prediction.held_rows == rows
    assert denoise.call_count == prediction.evaluations == session.predict(STATE, steps=steps).evaluations


def test_all_other_actions_and_the_video_follow_from_the_held_ones(policy, frames):
    session = opened(policy, frames)
    one, two = session.predict(STATE, prefix=prefix(1)), session.predict(STATE, prefix=prefix(1, -0.7))
    assert np.abs(one.actions[1:] - two.actions[1:]).max() > 1e-6
    assert np.abs(one.actions[0, [1, 4]] - two.actions[0, [1, 4]]).max() > 1e-6  # columns that were left to the model
    assert not np.array_equal(one.video_latents, two.video_latents)


@pytest.mark.parametrize("steps", [1, 4, 16])
def test_soft_rows_draw_the_chunk_each_less_than_the_one_before(policy, frames, steps):
    session, far = opened(policy, frames), prefix(3, 5.0, soft=2)
    free, drawn = session.predict(STATE, steps=steps), session.predict(STATE, steps=steps, prefix=far)
    held = session.predict(STATE, steps=steps, prefix=prefix(1, 5.0))
    assert drawn.held_rows == 1
    assert np.array_equal(drawn.actions[0, COLUMNS], far.rows[0])
    way = (drawn.actions - held.actions)[1:, COLUMNS] / (far.rows - held.actions[:, COLUMNS])[1:]
    assert (way > 0).all() and (way < 1).all() and (way[0] > way[1]).all()
    if steps == 1:  # with more a model may follow on its own, and comes nearer
        np.testing.assert_allclose(way, np.tile(soft_weights(2)[:, None], (1, 3)), atol=0.01)
    assert not np.array_equal(drawn.actions[1:, [1, 4]], free.actions[1:, [1, 4]])


@pytest.mark.parametrize("count", [0, 1, 5, 23])
def test_soft_weights_fall_from_one_to_nothing_as_published(count):
    weights = soft_weights(count)
    assert len(weights) == count and ((weights > 0) & (weights < 1)).all() and (np.diff(weights) < 0).all()
    # H − s = 12 rows are known and d = 7 held: c = (12 − i) / (12 − 7 + 1), W = c (e^c − 1) / (e − 1)
    c = (12 - np.arange(7, 12)) / 6
    np.testing.assert_allclose(soft_weights(5), c * (np.exp(c) - 1) / (np.e - 1), rtol=1e-6)


def test_a_chunk_held_whole_is_the_prefix(policy, frames):
    whole = prefix(ROWS, columns=np.arange(WIDTH))
    assert np.array_equal(opened(policy, frames).predict(STATE, prefix=whole).actions, whole.rows)


def test_a_prefix_leaves_no_trace_in_the_session(policy, frames):
    held, never = opened(policy, frames), opened(policy, frames)
    held.look_ahead(held.predict(STATE, prefix=prefix(2)), STATE, prefix=prefix(1))
    assert np.array_equal(held.predict(STATE).actions, never.predict(STATE).actions)
    for session in (held, never):
        session.observe(frames[1])
    assert np.array_equal(held.predict(STATE).actions, never.predict(STATE).actions)


def test_ahead_the_prefix_is_that_of_the_chunk_behind(policy, frames):
    session = opened(policy, frames)
    ahead = session.look_ahead(session.predict(STATE), STATE, prefix=prefix(2))
    assert np.array_equal(ahead.actions[:2, COLUMNS], prefix(2).rows) and ahead.held_rows == 2


class Calling:
    """Stands for a CUDA device: a graph is the call that it was captured from."""

    captured = 0

    def capture(self, run):
        self.captured += 1
        return run


def test_graphs_are_the_same_with_a_prefix_and_without(checkpoint_folder: Path, policy: Policy, frames):
    graphed, backend = load_policy(checkpoint_folder), Calling()
    graph_denoising(graphed.transformer, backend)
    session, plain = opened(graphed, frames), opened(policy, frames)
    session.predict(STATE)
    captured = backend.captured
    held = session.predict(STATE, prefix=prefix(2))
    assert backend.captured == captured
    np.testing.assert_allclose(held.actions, plain.predict(STATE, prefix=prefix(2)).actions, atol=1e-5)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (prefix(4), r"k ≤ 3 and columns \[n\], got \[4, 3\]"),
        (ActionPrefix(np.zeros((2, 2), np.float32), COLUMNS), r"got \[2, 2\] and \[3\]"),
        (prefix(1, columns=np.array([0, 5])), r"0 to 4, each once; got \[0, 5\]"),
        (prefix(1, columns=np.array([1, 1])), r"0 to 4, each once; got \[1, 1\]"),
        (prefix(2, float("nan")), "not finite in rows"),
        (prefix(2, soft=3), "3 of the 2 rows of a prefix cannot be soft"),
    ],
)
def test_a_prefix_that_does_not_fit_is_refused(policy, frames, wrong, message):
    with pytest.raises(ValueError, match=message):
        opened(policy, frames).predict(STATE, prefix=wrong)
