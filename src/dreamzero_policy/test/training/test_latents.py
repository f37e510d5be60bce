"""Latents of windows: advice is encoded as what would have come next, and files give back what they got."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dreamzero_policy.data.advice import AdviceDraft
from dreamzero_policy.data.episodes import load_episode
from dreamzero_policy.data.windows import unclamped
from dreamzero_policy.model.autoencoder import Stream, VideoAutoencoder
from dreamzero_policy.training.latents import encode_windows, load_latents, save_latents

CHUNKS = 3


@pytest.fixture
def attempt(contract, tmp_path):
    return made_attempt(contract, tmp_path, CHUNKS)


@pytest.fixture
def long_attempt(contract, tmp_path):
    """Of more chunks than a window has."""
    return made_attempt(contract, tmp_path, contract.model.chunk.chunks_per_window + 2)


def made_attempt(contract, tmp_path, chunks):
    """Of noise, every picture another."""
    rng, model = np.random.default_rng(0), contract.model

    def pictures(count):
        return rng.integers(0, 255, (count, *model.canvas_size_px, 3), dtype=np.uint8)

    draft = AdviceDraft(tmp_path / "attempt.npz", contract)
    for chunk in range(chunks):
        state = rng.normal(size=(model.chunk.actions + 1, len(model.state_joints)))
        action = rng.normal(size=(model.chunk.actions, model.action_width))
        draft.add(pictures(8 if chunk else 1), state, action, pictures(8))
    draft.finish(["touch the red cube", "go to the red cube"])
    return load_episode(tmp_path / "attempt.npz", contract)


@torch.no_grad()
def test_the_block_of_each_chunk_is_what_follows_on_what_was_seen_if_the_advice_is_taken(
    attempt, contract, make_config, make_autoencoder
):
    autoencoder = VideoAutoencoder(make_autoencoder(make_config()))
    window, *_ = encode_windows(autoencoder, unclamped(contract), attempt, "attempt", 1, 0)
    assert window.chunks == CHUNKS and window.opening
    assert window.prompts == ("touch the red cube", "go to the red cube")
    for chunk in range(CHUNKS):
        frames = np.concatenate([attempt.canvas[: 1 + 8 * chunk], attempt.advised[chunk]])
        video = torch.from_numpy(frames).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
        expected = autoencoder.encode(video, Stream())[0]
        torch.testing.assert_close(window.history[:, : 1 + 2 * chunk], expected[:, :-2], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(
            window.latents[:, 1 + 2 * chunk : 3 + 2 * chunk], expected[:, -2:], atol=1e-4, rtol=1e-4
        )
        rows = slice(24 * chunk, 24 * chunk + 24)
        actions = unclamped(contract).normalised_actions(attempt.action[rows], attempt.state[24 * chunk])
        np.testing.assert_allclose(window.action[chunk], actions, atol=1e-6)


@torch.no_grad()
def test_of_a_long_attempt_every_chunk_is_in_a_window_that_begins_where_the_loop_opens_one(
    long_attempt, contract, make_config, make_autoencoder
):
    autoencoder = VideoAutoencoder(make_autoencoder(make_config()))
    robot = unclamped(contract)
    windows = list(encode_windows(autoencoder, robot, long_attempt, "attempt", 1, 0))
    begun = {tuple(window.state[0].tolist()): window for window in windows}
    memory = contract.model.chunk.chunks_per_window
    for chunk, chunks in ((0, memory), (memory, 2)):
        state = torch.from_numpy(robot.normalised_state(long_attempt.state[24 * chunk]))
        assert begun[tuple(state.tolist())].chunks == chunks


def test_a_draft_refuses_pictures_that_are_not_those_of_one_chunk(contract, tmp_path):
    model, nothing = contract.model, np.zeros(0)
    draft = AdviceDraft(tmp_path / "attempt.npz", contract)
    draft.add(np.zeros((1, *model.canvas_size_px, 3), np.uint8), nothing, nothing, nothing)
    with pytest.raises(ValueError, match="7 pictures were seen before chunk 1, expected 8"):
        draft.add(np.zeros((7, *model.canvas_size_px, 3), np.uint8), nothing, nothing, nothing)


def test_a_file_gives_back_windows_with_and_without_a_history_of_their_own(contract, make_window, tmp_path):
    windows = [make_window(1 + i % 3, i) for i in range(5)]
    for i in (1, 4):
        windows[i] = replace(windows[i], history=windows[i].latents.flip(1))
    save_latents(tmp_path / "latents.npz", contract, windows)
    back = load_latents(tmp_path / "latents.npz", contract)
    assert [item.history is not None for item in back] == [False, True, False, False, True]
    for ours, theirs in zip(windows, back, strict=True):
        torch.testing.assert_close(theirs.latents, ours.latents.half())
        if ours.history is not None:
            torch.testing.assert_close(theirs.history, ours.history.half())
