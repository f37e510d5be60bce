"""A session from frame to chunk: what it remembers, what a prediction depends on, what it refuses."""

import dataclasses

import numpy as np
import pytest
import torch

from dreamzero_policy.inference.loading import load_policy
from dreamzero_policy.inference.session import Session
from dreamzero_policy.model.autoencoder import Stream, to_uint8

STATE = np.linspace(-1, 1, 20, dtype=np.float32)


def opened(policy, frames, blocks: int = 0, **options) -> Session:
    """A session that saw one frame and some blocks."""
    session = Session(policy, "push the red cube", **options)
    session.observe(frames[0][:1])
    for block in frames[1 : 1 + blocks]:
        session.observe(block)
    return session


def past(session: Session) -> tuple[torch.Tensor, torch.Tensor]:
    cache = session._memory.window.cache
    return cache.keys[:, :, :, : cache.length], cache.values[:, :, :, : cache.length]


def test_a_prediction_has_the_shape_of_the_contract(policy, frames):
    prediction = opened(policy, frames, 1).predict(STATE)
    assert prediction.actions.shape == (3, 5)
    assert prediction.actions.dtype == np.float32
    assert prediction.video_latents.shape == (16, 2, 4, 4)
    assert (prediction.steps, prediction.evaluations, prediction.seed) == (2, 2, 1140)
    assert set(prediction.timings_s) == {"encode", "observe", "denoise"}
    assert np.isfinite(prediction.actions).all()


def test_only_observing_writes_the_cache(policy, frames):
    session = opened(policy, frames, 1)
    before = [x.clone() for x in past(session)]
    session.decode(session.predict(STATE))
    assert all(torch.equal(a, b) for a, b in zip(before, past(session), strict=True))
    session.observe(frames[2])
    assert past(session)[0].shape[3] == before[0].shape[3] + 2 * 4


def test_what_was_seen_matters(policy, frames):
    one, two = opened(policy, frames, 1), opened(policy, frames)
    two.observe(frames[5])
    assert not np.allclose(one.predict(STATE).actions, two.predict(STATE).actions)
    assert not np.allclose(one.predict(STATE).actions, one.predict(-STATE).actions)


def test_the_prompt_matters_and_guidance_matters(policy, frames):
    session = opened(policy, frames)
    guided = session.predict(STATE)
    session.reset("lift the blue ball")
    session.observe(frames[0][:1])
    assert not np.allclose(session.predict(STATE).actions, guided.actions)
    alone = opened(policy, frames, cfg_scale=1.0).predict(STATE)
    assert not torch.allclose(alone.video_latents, guided.video_latents)


def test_a_window_takes_three_blocks_and_the_fourth_opens_the_next(policy, frames):
    """Frames 0, 1-2, 3-4, 5-6 are observed, chunk 7-8 is predicted; the next block finds no room for another chunk."""
    session, windows = opened(policy, frames), []
    for block in frames[1:10]:
        windows.append((session.observe(block).window, session._memory.window.frames))
    assert windows == [(0, 3), (0, 5), (0, 7), (1, 1), (1, 3), (1, 5), (1, 7), (2, 1), (2, 3)]
    assert (session.window, session.chunk_index, session.frames_observed) == (2, 9, 73)


@pytest.mark.parametrize(
    ("chunks", "frames_of_windows"), [(1, [1, 1, 1, 1, 1]), (2, [3, 1, 3, 1, 3]), (3, [3, 5, 1, 3, 5])]
)
def test_a_window_may_be_shorter_than_the_model_has_room_for(policy, frames, chunks, frames_of_windows):
    session, found = opened(policy, frames, window_chunks=chunks), []
    for block in frames[1:6]:
        session.observe(block)
        found.append(session._memory.window.frames)
    assert found == frames_of_windows
    sampler = dataclasses.replace(policy.config.sampler, window_chunks=chunks)
    config = dataclasses.replace(policy.config, sampler=sampler)
    assert Session(dataclasses.replace(policy, config=config), "push").window_chunks == chunks


@pytest.mark.parametrize("chunks", [0, 5])
def test_a_window_of_no_chunk_or_of_more_than_the_model_was_made_for_is_refused(policy, chunks):
    with pytest.raises(ValueError, match=f"window_chunks is {chunks}, expected 1 to 4"):
        Session(policy, "push", window_chunks=chunks)


def test_a_new_window_begins_with_the_newest_frame_and_forgets_the_rest(policy, frames):
    session = opened(policy, frames, 3)
    observation = session.observe(frames[4])
    assert observation.window_opened
    fresh = Session(policy, "push the red cube")
    fresh.observe(frames[4][-1:])
    assert np.array_equal(session.predict(STATE).actions, fresh.predict(STATE).actions)


def test_one_frame_opens_a_window_at_any_time(policy, frames):
    session = opened(policy, frames, 1)
    assert session.observe(frames[2][:1]).window_opened
    fresh = Session(policy, "push the red cube")
    fresh.observe(frames[2][:1])
    assert np.array_equal(session.predict(STATE).actions, fresh.predict(STATE).actions)


def test_text_is_encoded_once_per_prompt_and_the_picture_once_per_window(policy, frames, monkeypatch):
    calls = {"text": 0, "text_kv": 0, "image": 0, "image_kv": 0, "condition": 0}

    def counted(owner, name, key):
        original = getattr(owner, name)

        def call(*args, **kwargs):
            calls[key] += 1
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, call)

    counted(policy.text, "encode", "text")
    counted(policy.transformer, "encode_text", "text_kv")
    counted(policy.image, "encode", "image")
    counted(policy.transformer, "encode_image", "image_kv")
    counted(policy.autoencoder, "image_condition", "condition")
    session = opened(policy, frames, 3)
    session.predict(STATE)
    session.reset()
    session.observe(frames[0][:1])
    assert calls == {"text": 1, "text_kv": 1, "image": 2, "image_kv": 2, "condition": 2}
    session.reset("another task")
    assert (calls["text"], calls["text_kv"]) == (2, 2)


def test_the_same_seed_gives_the_same_chunk_and_another_seed_another(policy, frames):
    session = opened(policy, frames, 1)
    first = session.predict(STATE)
    assert np.array_equal(session.predict(STATE).actions, first.actions)
    assert np.array_equal(opened(policy, frames, 1).predict(STATE).actions, first.actions)
    other = session.predict(STATE, seed=5)
    assert other.seed == 5
    assert not np.allclose(other.actions, first.actions)
    assert np.array_equal(opened(policy, frames, 1, seed=5).predict(STATE).actions, other.actions)


@pytest.mark.parametrize(("steps", "evaluations"), [(1, 1), (3, 3), (16, 8)])
def test_steps_can_be_chosen_per_call(policy, frames, steps, evaluations):
    prediction = opened(policy, frames).predict(STATE, steps=steps)
    assert (prediction.steps, prediction.evaluations) == (steps, evaluations)


def test_the_predicted_frames_continue_the_observed_clip(policy, frames):
    """Decoding block by block, late or twice, is decoding the clip at once."""
    session = opened(policy, frames, 2)
    prediction = session.predict(STATE)
    clip = torch.cat([*prediction.past_latents, prediction.video_latents[None]], dim=2)
    whole = to_uint8(policy.autoencoder.decode(clip, Stream()))
    assert whole.shape == (25, 32, 32, 3)
    early = session.decode(prediction)
    assert np.abs(early.astype(int) - whole[-8:]).max() <= 1  # one grey level: kernels round differently by layout
    session.observe(frames[3])
    session.decode(session.predict(STATE))
    assert np.array_equal(session.decode(prediction), early)


def test_decoding_does_not_change_the_next_prediction(policy, frames):
    one, two = opened(policy, frames, 1), opened(policy, frames, 1)
    one.decode(one.predict(STATE))
    for session in (one, two):
        session.observe(frames[2])
    assert np.array_equal(one.predict(STATE).actions, two.predict(STATE).actions)


def test_a_layout_without_image_condition_runs_too(policy_without_image_condition, frames):
    session = opened(policy_without_image_condition, frames, 1)
    assert session._memory.window.condition is None
    assert session.predict(STATE).actions.shape == (3, 5)


def test_a_video_that_stops_at_noise_keeps_that_noise(policy, frames):
    clean = opened(policy, frames).predict(STATE, steps=4)
    noisy = opened(policy, frames, video_final_noise=0.8).predict(STATE, steps=4)
    assert not torch.allclose(clean.video_latents, noisy.video_latents)
    with pytest.raises(ValueError, match=r"final noise level must be in \[0, 1\), got 1.5"):
        opened(policy, frames, video_final_noise=1.5)


def test_a_reset_forgets_and_counts(policy, frames):
    session = opened(policy, frames, 2)
    session.reset()
    assert (session.epoch, session.window, session.chunk_index, session.frames_observed) == (1, -1, -1, 0)
    with pytest.raises(ValueError, match="nothing was observed yet"):
        session.predict(STATE)
    session.observe(frames[0][:1])
    assert np.array_equal(session.predict(STATE).actions, opened(policy, frames).predict(STATE).actions)


def test_a_block_before_the_first_frame_is_refused(policy, frames):
    session = Session(policy, "push")
    with pytest.raises(ValueError, match="a block of 8 frames came before the first frame"):
        session.observe(frames[0])
    assert session.frames_observed == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda block: block.astype(np.float32), r"must be uint8 \[T, 32, 32, 3\], got float32 \[8, 32, 32, 3\]"),
        (lambda block: block[:, :16], r"got uint8 \[8, 16, 32, 3\]"),
        (lambda block: block[:5], "observes 1 frame or a block of 8, got 5"),
    ],
)
def test_wrong_frames_are_refused_and_change_nothing(policy, frames, change, message):
    session = opened(policy, frames)
    before = session.predict(STATE).actions
    with pytest.raises(ValueError, match=message):
        session.observe(change(frames[1]))
    assert np.array_equal(session.predict(STATE).actions, before)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (np.zeros((1, 20), np.float32), r"shape \[n\] with n ≤ 64, got \[1, 20\]"),
        (np.zeros(65, np.float32), r"got \[65\]"),
        (np.array([0, np.nan, 0, np.inf], np.float32), r"not finite at \[1 3\]"),
    ],
)
def test_wrong_states_are_refused(policy, frames, state, message):
    with pytest.raises(ValueError, match=message):
        opened(policy, frames).predict(state)


def test_a_chunk_may_start_from_given_noise(policy, frames):
    session = opened(policy, frames)
    drawn, given = session.predict(STATE, seed=3), session.predict(STATE, start=session._noise(3))
    assert np.array_equal(drawn.actions, given.actions)
    assert (drawn.seed, given.seed) == (3, None)
    with pytest.raises(ValueError, match=r"shapes .*, got \(\(1, 16, 2, 4, 4\), \(1, 3, 4\)\)"):
        session.predict(STATE, start=(torch.zeros(1, 16, 2, 4, 4), torch.zeros(1, 3, 4)))


def test_the_fast_path_predicts_what_the_plain_path_predicts(checkpoint_folder, frames):
    plain, fast = (
        opened(load_policy(checkpoint_folder, fast=fast), frames, 2).predict(STATE) for fast in (False, True)
    )
    np.testing.assert_allclose(fast.actions, plain.actions, rtol=0, atol=1e-5)
    torch.testing.assert_close(fast.video_latents, plain.video_latents, rtol=0, atol=1e-4)


def test_bfloat16_predicts_nearly_the_same(policy, checkpoint_folder, frames):
    half = opened(load_policy(checkpoint_folder, dtype="bfloat16"), frames, 2).predict(STATE)
    full = opened(policy, frames, 2).predict(STATE)
    assert half.actions.dtype == np.float32
    assert np.linalg.norm(half.actions - full.actions) < 0.05 * np.linalg.norm(full.actions)
