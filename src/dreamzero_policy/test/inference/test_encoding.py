"""Frames to latents: as in training, and exactly as the released server does."""

import numpy as np
import pytest
import torch

from dreamzero_policy.inference.session import Session
from dreamzero_policy.model.autoencoder import Stream, to_video

STATE = np.linspace(-1, 1, 20, dtype=np.float32)
PROMPT = "push the red cube"


def release(policy) -> Session:
    return Session(policy, PROMPT, steps=1, vae_mode="release")


def opened_by(policy, frame: np.ndarray) -> np.ndarray:
    session = release(policy)
    session.observe(frame[None])
    return session.predict(STATE).actions


def test_a_streamed_window_is_the_whole_clip(policy, frames):
    session, clip = Session(policy, PROMPT), np.concatenate([frames[0][:1], *frames[1:4]])
    latents = [session.observe(part).latents for part in (clip[:1], clip[1:9], clip[9:17], clip[17:])]
    with torch.inference_mode():
        whole = policy.autoencoder.encode(to_video(clip, "cpu", torch.float32), Stream())[0]
    torch.testing.assert_close(torch.cat(latents, dim=1), whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("length", [4, 8, 9])
def test_a_block_of_the_release_starts_its_own_clip(policy, frames, length):
    """Four frames are doubled, and the first of up to eight stands in front once more; nine are a clip already."""
    session, block = release(policy), np.concatenate(frames[1:3])[:length]
    session.observe(frames[0][:1])
    clip = {4: np.repeat(block, 2, axis=0), 8: block, 9: block[1:]}[length]
    clip = np.concatenate([block[:1], clip])
    with torch.inference_mode():
        expected = policy.autoencoder.encode(to_video(clip, "cpu", torch.float32), Stream())[0, :, 1:]
    assert torch.equal(session.observe(block).latents, expected)


@pytest.mark.parametrize(("length", "opening"), [(1, 0), (4, 3), (8, 0), (9, 8)])
def test_a_block_may_open_a_window_of_the_release(policy, frames, length, opening):
    """With its newest frame if it has 4 or 9, else with its first."""
    block, session = np.concatenate(frames[1:3])[:length], release(policy)
    observation = session.observe(block)
    assert observation.window_opened
    assert observation.latents.shape[1] == 1
    assert np.array_equal(session.predict(STATE).actions, opened_by(policy, block[opening]))


def test_a_window_of_the_release_is_reset_after_four_chunks(policy, frames):
    session, opened = release(policy), []
    for block in frames[:9]:
        opened.append(session.observe(block[:4]).window_opened)
    assert opened == [True, False, False, False, True, False, False, False, True]
    assert np.array_equal(session.predict(STATE).actions, opened_by(policy, frames[8][3]))


def test_the_lengths_a_session_takes_follow_from_the_chunk(policy, frames):
    session = release(policy)
    with pytest.raises(ValueError, match="observes 1 frame or a block of 4 or 8 or 9, got 5"):
        session.observe(frames[0][:5])
    with pytest.raises(ValueError, match="observes 1 frame or a block of 8, got 4"):
        Session(policy, PROMPT).observe(frames[0][:4])


def test_another_encoding_is_refused(policy):
    with pytest.raises(ValueError, match="vae_mode is 'exact', expected one of"):
        Session(policy, PROMPT, vae_mode="exact")
