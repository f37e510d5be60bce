"""Several sessions of one robot: each as if it were alone, and looking ahead leaves no trace."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from dreamzero_policy.inference.loading import Policy, load_policy
from dreamzero_policy.inference.session import Session
from dreamzero_policy.inference.sessions import Sessions
from dreamzero_policy.model.config import ModelConfig
from dreamzero_policy.runtime.policy import Observed, Purpose, Reply, Request

STATE = np.zeros(5, np.float32)
EPOCH = 1


@pytest.fixture(scope="module")
def model(
    small_config: ModelConfig,
    write_checkpoint: Callable[[ModelConfig, Path], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Policy:
    return load_policy(write_checkpoint(small_config, tmp_path_factory.mktemp("checkpoint")), threads=1)


@pytest.fixture(scope="module")
def blocks() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (8, 8, 32, 32, 3), dtype=np.uint8)


def request(canvas: np.ndarray | None, session: int = 0, purpose: Purpose = Purpose.CHUNK) -> Request:
    return Request(EPOCH, canvas, STATE, steps=1, seed=3, sent_monotonic_ns=0, session=session, purpose=purpose)


def sessions(model: Policy) -> Sessions:
    made = Sessions(model)
    made.reset("touch")
    return made


def single(model: Policy) -> Session:
    return Session(model, "touch", vae_mode="stream")


def alone(model: Policy, canvases: list[np.ndarray]) -> list[np.ndarray]:
    session, actions = single(model), []
    for canvas in canvases:
        session.observe(canvas)
        actions.append(session.predict(STATE, steps=1, seed=3).actions)
    return actions


def test_two_staggered_sessions_equal_two_singles_to_the_last_bit(model: Policy, blocks: np.ndarray) -> None:
    first = [blocks[0, :1], *blocks[1:7]]  # over the end of a window, which has four chunks
    second = [blocks[3, :1], *blocks[::-1][:6]]
    both, got = sessions(model), {0: [], 1: []}
    for canvases in zip(first, second, strict=True):
        for number, canvas in enumerate(canvases):
            got[number].append(both.answer(request(canvas, number)).actions)
    for number, canvases in enumerate((first, second)):
        np.testing.assert_array_equal(got[number], alone(model, canvases))


def test_looking_ahead_never_changes_the_session(model: Policy, blocks: np.ndarray) -> None:
    canvases = [blocks[0, :1], *blocks[1:7]]
    looking, got = sessions(model), []
    for canvas in canvases:
        got.append(looking.answer(request(canvas)).actions)
        looking.answer(request(None, purpose=Purpose.LOOK_AHEAD))
    np.testing.assert_array_equal(got, alone(model, canvases))


def test_looking_ahead_is_predicting_with_the_predicted_latents_observed(model: Policy, blocks: np.ndarray) -> None:
    session = single(model)
    session.observe(blocks[0, :1])
    given = session.predict(STATE, steps=1, seed=3)
    ahead = session.look_ahead(given, STATE, steps=1, seed=3)
    reference = session.fork()
    reference._append(reference._memory.window, given.video_latents[None])
    expected = reference.predict(STATE, steps=1, seed=3)
    np.testing.assert_array_equal(ahead.actions, expected.actions)
    assert torch.equal(ahead.video_latents, expected.video_latents)
    assert np.abs(ahead.actions - given.actions).max() > 0


def test_blocks_are_observed_after_the_look_beyond_them_and_the_next_look_goes_on_from_there(
    model: Policy, blocks: np.ndarray
) -> None:
    looking, twin = sessions(model), single(model)
    looking.answer(request(blocks[0, :1]))
    looking.answer(request(None, purpose=Purpose.LOOK_AHEAD))
    twin.observe(blocks[0, :1])
    given = twin.look_ahead(twin.predict(STATE, steps=1, seed=3), STATE, steps=1, seed=3)
    for block in blocks[1:7]:  # over the end of a window, where a fork opens one with a predicted frame
        got = looking.answer(request(block, purpose=Purpose.LOOK_AHEAD))
        twin.observe(block)
        given = twin.look_ahead(given, STATE, steps=1, seed=3)
        np.testing.assert_array_equal(got.actions, given.actions)
        assert got.timings_s["imagine"] > 0


def test_a_window_opened_ahead_begins_with_the_last_predicted_frame(model: Policy, blocks: np.ndarray) -> None:
    session = single(model)
    session.observe(blocks[0, :1])
    for block in blocks[1:4]:
        session.observe(block)
    given = session.predict(STATE, steps=1, seed=3)
    ahead = session.look_ahead(given, STATE, steps=1, seed=3)
    fresh = single(model)
    fresh.observe(session.decode(given)[-1:])
    np.testing.assert_array_equal(ahead.actions, fresh.predict(STATE, steps=1, seed=3).actions)
    assert (session.window, ahead.window, ahead.first_frame) == (0, 1, 1)


def test_a_rolling_window_looks_ahead_as_it_observes(model: Policy, blocks: np.ndarray) -> None:
    session = Session(model, "touch", vae_mode="stream", window_mode="rolling")
    session.observe(blocks[0, :1])
    for block in blocks[1:4]:
        session.observe(block)
    given = session.predict(STATE, steps=1, seed=3)
    before = session.predict(STATE, steps=1, seed=3).actions
    assert session.look_ahead(given, STATE, steps=1, seed=3).first_frame == 7  # a chunk left, one came
    np.testing.assert_array_equal(session.predict(STATE, steps=1, seed=3).actions, before)


def test_a_prediction_of_another_past_is_refused_with_both(model: Policy, blocks: np.ndarray) -> None:
    session = single(model)
    session.observe(blocks[0, :1])
    given = session.predict(STATE, steps=1, seed=3)
    session.observe(blocks[1])
    with pytest.raises(ValueError, match=r"\(0, 0, 1\), this session is at \(0, 1, 3\)"):
        session.look_ahead(given, STATE)


def test_observing_only_is_answered_without_a_chunk(model: Policy, blocks: np.ndarray) -> None:
    observing = sessions(model)
    observing.answer(request(blocks[0, :1]))
    assert observing.answer(request(blocks[1], purpose=Purpose.OBSERVE)) == Observed(EPOCH)
    reply = observing.answer(request(blocks[2]))
    assert isinstance(reply, Reply)
    np.testing.assert_array_equal(reply.actions, alone(model, [blocks[0, :1], *blocks[1:3]])[-1])


def test_a_reset_forgets_all_sessions(model: Policy, blocks: np.ndarray) -> None:
    both = sessions(model)
    for number in (0, 1):
        both.answer(request(blocks[0, :1], number))
    both.reset("push")
    assert both.dream() is None
    with pytest.raises(ValueError, match="before the first frame"):
        both.answer(request(blocks[1], 1))
