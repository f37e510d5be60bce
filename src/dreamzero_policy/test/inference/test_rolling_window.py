"""A window that rolls: the first frame and the newest chunks stay, and memory is never cut."""

import dataclasses

import numpy as np
import pytest
import torch

from dreamzero_policy.inference.session import Session
from dreamzero_policy.model.autoencoder import Stream, to_uint8
from dreamzero_policy.model.transformer import Context

STATE = np.linspace(-1, 1, 20, dtype=np.float32)
TOKENS_PER_FRAME = 4


def rolling(policy, frames, blocks: int, **options) -> Session:
    session = Session(policy, "push the red cube", window_mode="rolling", steps=1, **options)
    session.observe(frames[0][:1])
    for block in frames[1 : 1 + blocks]:
        session.observe(block)
    return session


def past(session: Session) -> tuple[torch.Tensor, torch.Tensor]:
    cache = session._memory.window.cache
    return cache.keys[:, :, :, : cache.length], cache.values[:, :, :, : cache.length]


def test_the_window_fills_once_and_stays_full(policy, frames):
    session, seen = rolling(policy, frames, 0), []
    for block in frames[1:8]:
        observation = session.observe(block)
        seen.append((observation.window, observation.window_opened, session.predict(STATE).first_frame))
    assert seen == [(0, False, frame) for frame in (3, 5, 7, 7, 7, 7, 7)]
    assert session.chunk_index == 7


def test_until_it_is_full_it_is_the_window_that_is_reset(policy, frames):
    session = Session(policy, "push the red cube", steps=1)
    session.observe(frames[0][:1])
    for block in frames[1:4]:
        session.observe(block)
    assert np.array_equal(rolling(policy, frames, 3).predict(STATE).actions, session.predict(STATE).actions)


def test_the_oldest_chunk_leaves_and_the_first_frame_stays(policy, frames):
    before, after = rolling(policy, frames, 3), rolling(policy, frames, 4)
    leaving = slice(TOKENS_PER_FRAME, 3 * TOKENS_PER_FRAME)
    (old_keys, old_values), (new_keys, new_values) = past(before), past(after)
    assert torch.equal(new_keys[:, :, :, : leaving.start], old_keys[:, :, :, : leaving.start])
    kept = old_values[:, :, :, leaving.stop :]
    assert torch.equal(new_values[:, :, :, leaving.start : leaving.start + kept.shape[3]], kept)
    assert new_values.shape == old_values.shape


def test_keys_stand_where_a_window_of_the_frames_that_are_left_has_them(policy_without_image_condition, frames):
    """In the first layer, where a key is made of its own token alone, to rounding. Deeper layers remember more: their
    keys were made when the chunk that left could still be seen."""
    policy = policy_without_image_condition
    session, latents = rolling(policy, frames, 0), []
    latents.append(session._memory.window.latents[0])
    for block in frames[1:7]:
        latents.append(session.observe(block).latents[None])
    rebuilt = session._empty_cache()
    context = Context(session._memory.text, session._memory.window.image)
    with torch.inference_mode():
        for first_frame, part in zip((0, 1, 3, 5), [latents[0], *latents[-3:]], strict=True):
            policy.transformer.observe(rebuilt, context, part, None, first_frame=first_frame)
    keys, values = past(session)
    torch.testing.assert_close(keys[0], rebuilt.keys[0, :, :, : keys.shape[3]], rtol=0, atol=1e-5)
    torch.testing.assert_close(values[0], rebuilt.values[0, :, :, : keys.shape[3]], rtol=0, atol=1e-5)
    assert (keys[1] - rebuilt.keys[1, :, :, : keys.shape[3]]).abs().max() > 1e-4


def test_what_left_is_still_remembered_by_what_stayed(policy, frames):
    """Two sessions that differ only in a chunk that has left the window do not predict the same."""
    one, two = rolling(policy, frames, 0), rolling(policy, frames, 0)
    one.observe(frames[1])
    two.observe(frames[9])
    for block in frames[2:5]:
        one.observe(block)
        two.observe(block)
    assert not np.array_equal(one.predict(STATE).actions, two.predict(STATE).actions)


def test_previews_continue_the_whole_clip(policy, frames):
    session, latents = rolling(policy, frames, 0), []
    latents.append(session._memory.window.latents[0])
    for block in frames[1:7]:
        latents.append(session.observe(block).latents[None])
        prediction = session.predict(STATE)
        preview = session.decode(prediction)
        whole = policy.autoencoder.decode(torch.cat([*latents, prediction.video_latents[None]], dim=2), Stream())
        assert np.abs(preview.astype(int) - to_uint8(whole)[-8:]).max() <= 1  # grey level: kernels round differently


def test_a_preview_asked_for_late_has_the_right_length(policy, frames):
    """Decoding then begins in the middle of the clip: fewer frames of context, no other difference."""
    session = rolling(policy, frames, 7)
    assert session.decode(session.predict(STATE)).shape == (8, 32, 32, 3)


def test_one_frame_opens_a_window_at_any_time(policy, frames):
    session = rolling(policy, frames, 5)
    assert session.observe(frames[0][:1]).window_opened
    assert np.array_equal(session.predict(STATE).actions, rolling(policy, frames, 0).predict(STATE).actions)


def test_a_window_of_one_chunk_cannot_roll(policy):
    geometry = dataclasses.replace(policy.config.geometry, chunks_per_window=1)
    one_chunk = dataclasses.replace(policy, config=dataclasses.replace(policy.config, geometry=geometry))
    for short, options in ((one_chunk, {}), (policy, {"window_chunks": 1})):
        with pytest.raises(ValueError, match="a rolling window needs at least 2 chunks, this one has 1"):
            Session(short, "push", window_mode="rolling", **options)


def test_a_window_of_two_chunks_rolls(policy, frames):
    geometry = dataclasses.replace(policy.config.geometry, chunks_per_window=2)
    two_chunks = dataclasses.replace(policy, config=dataclasses.replace(policy.config, geometry=geometry))
    session = rolling(two_chunks, frames, 4)
    assert session.predict(STATE).first_frame == 3
    assert session.decode(session.predict(STATE)).shape == (8, 32, 32, 3)


def test_another_mode_is_refused(policy):
    with pytest.raises(ValueError, match="window_mode is 'slide', expected one of"):
        Session(policy, "push", window_mode="slide")
