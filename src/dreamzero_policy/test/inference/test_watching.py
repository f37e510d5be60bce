"""Sessions that are looked at: the same answers, every prediction decoded, every block compared with what said it."""

import numpy as np
import pytest
import torch

from dreamzero_policy.inference.session import Session
from dreamzero_policy.inference.sessions import Sessions
from dreamzero_policy.inference.surprise import difference
from dreamzero_policy.inference.watching import WatchedSessions
from dreamzero_policy.model.autoencoder import Stream, to_video
from dreamzero_policy.runtime.policy import Purpose, Request

STATE = np.linspace(-1, 1, 20, dtype=np.float32)
PROMPT = "push the red cube"


def asked(canvas: np.ndarray | None, purpose: Purpose = Purpose.CHUNK, session: int = 0) -> Request:
    return Request(1, canvas, STATE, steps=1, seed=3, sent_monotonic_ns=0, session=session, purpose=purpose)


@pytest.fixture
def watched(policy) -> WatchedSessions:
    sessions = WatchedSessions(Sessions(policy))
    sessions.reset(PROMPT)
    return sessions


def test_looking_changes_no_answer(policy, frames, watched):
    plain = Sessions(policy)
    plain.reset(PROMPT)
    for canvas in (frames[0][:1], *frames[1:6]):
        assert np.array_equal(plain.answer(asked(canvas)).actions, watched.answer(asked(canvas)).actions)


def test_a_chunk_is_told_how_far_off_it_was_once_its_block_came(policy, frames, watched):
    session = Session(policy, PROMPT, vae_mode="stream")
    session.observe(frames[0][:1])
    prediction = session.predict(STATE, steps=1, seed=3)
    watched.answer(asked(frames[0][:1]))
    foresight = watched.newest
    assert np.array_equal(foresight.canvas, session.decode(prediction))
    assert foresight.surprise is None
    last = session.latents[-1]
    observation = session.observe(frames[1])
    watched.answer(asked(frames[1]))
    assert foresight.surprise == pytest.approx(
        difference(prediction.expected_latents, observation.latents).mean().sqrt().item()
    )
    still = (observation.latents - last[0, :, -1:]).square().mean().sqrt()
    assert foresight.still == pytest.approx(still.item())
    assert watched.newest is not foresight


def test_a_block_that_opens_a_window_is_compared_as_the_end_of_the_one_before(policy, frames, watched):
    """Its latents are those of the whole clip, of which the session itself keeps one frame."""
    chunks = policy.config.geometry.chunks_per_window
    clip = np.concatenate([frames[0][:1], *frames[1 : chunks + 1]])
    for canvas in (frames[0][:1], *frames[1:chunks]):
        watched.answer(asked(canvas))
    foresight, (_, prediction) = watched.newest, watched._sessions.newest
    watched.answer(asked(frames[chunks]))
    with torch.inference_mode():
        latents = policy.autoencoder.encode(to_video(clip, policy.device, policy.dtype), Stream())
        seen = latents[0, :, -prediction.video_latents.shape[1] :]
        expected = (prediction.expected_latents - seen).square().mean().sqrt().item()
    assert foresight.surprise == pytest.approx(expected, rel=1e-4)


def test_looking_ahead_is_compared_with_the_block_behind_the_next(frames, watched):
    watched.answer(asked(frames[0][:1]))
    near = watched.newest
    watched.answer(asked(None, Purpose.LOOK_AHEAD))
    far = watched.newest
    watched.answer(asked(frames[1], Purpose.OBSERVE))
    assert near.surprise is not None and far.surprise is None
    watched.answer(asked(frames[2], Purpose.OBSERVE))
    assert far.surprise is not None


def test_what_was_predicted_before_a_reset_is_compared_with_nothing(frames, watched):
    watched.answer(asked(frames[0][:1]))
    foresight = watched.newest
    watched.reset(PROMPT)
    watched.answer(asked(frames[0][:1]))
    watched.answer(asked(frames[1]))
    assert foresight.surprise is None


def test_a_prediction_that_is_not_finite_has_no_distance(frames, watched):
    watched.answer(asked(frames[0][:1]))
    foresight, (_, prediction) = watched.newest, watched._sessions.newest
    with torch.inference_mode():
        prediction.expected_latents.fill_(float("nan"))
    watched.answer(asked(frames[1]))
    assert foresight.surprise is None and foresight.still is not None
