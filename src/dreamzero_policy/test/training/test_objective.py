"""What the objective promises: perfect is zero, padding is nothing, a batch is the mean of its items."""

import dataclasses

import pytest
import torch

from dreamzero_policy.model.flow import NoiseTable
from dreamzero_policy.training.latents import Batch, collate
from dreamzero_policy.training.noise import NoiseSettings, NoisyBatch, corrupt
from dreamzero_policy.training.objective import losses

TABLE = NoiseTable.shifted(5.0)
COUPLED = NoiseSettings()


def draw(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def noisy(make_window, make_config) -> NoisyBatch:
    """Two windows, of one and of two chunks."""
    return corrupt(collate([make_window(1, 0), make_window(2, 1)], make_config()), TABLE, draw(0), COUPLED)


def test_a_perfect_prediction_has_no_loss_whatever_it_says_about_padding(noisy):
    video, action = noisy.video_target.clone(), noisy.action_target.clone()
    video[0, :, 3:] = 1e3  # the second chunk of an item that has one
    action[0, 4:] = 1e3
    action[..., 5] = 1e3  # a column that the contract does not use
    perfect = losses(video, action, noisy)
    assert perfect.video == 0 and perfect.action == 0
    action[1, 7, 0] += 1
    assert losses(video, action, noisy).action > 0


def part_of(noisy: NoisyBatch, item: int, chunks: int) -> NoisyBatch:
    """One item of a noisy batch, without its padding."""
    batch = noisy.batch
    rows, frames = 4 * chunks, 1 + 2 * chunks
    one = Batch(
        (batch.prompts[item],),
        batch.first_frame[[item]],
        batch.latents[[item], :, :frames],
        batch.state[[item], :chunks],
        batch.action[[item], :rows],
        batch.chunk_valid[[item], :chunks],
        batch.action_valid,
    )
    cut = {name: getattr(noisy, name)[[item], :, :frames] for name in ("history", "video", "video_target")}
    cut |= {name: getattr(noisy, name)[[item], :rows] for name in ("action", "action_target")}
    cut |= {name: getattr(noisy, name)[[item], :chunks] for name in ("action_time", "action_weight")}
    cut |= {name: getattr(noisy, name)[[item], :frames] for name in ("video_time", "video_weight")}
    return dataclasses.replace(noisy, batch=one, **cut)


def test_a_batch_of_two_lengths_is_the_mean_of_its_items(noisy, make_trainer):
    train = make_trainer()
    for parameter in train.networks["transformer"].parameters():  # the video head starts at zero
        torch.nn.init.normal_(parameter, std=0.2, generator=draw(parameter.numel()))
    both, *items = (
        losses(*train.velocities(which), which) for which in (noisy, part_of(noisy, 0, 1), part_of(noisy, 1, 2))
    )
    for name in ("video", "action"):
        expected = sum(getattr(item, name) for item in items) / 2
        assert getattr(both, name).item() == pytest.approx(expected.item(), rel=1e-4)


def test_the_release_loss_is_diluted_by_the_columns_that_are_not_used(noisy):
    video, action = torch.zeros_like(noisy.video_target), torch.zeros_like(noisy.action_target)
    valid, release = (losses(video, action, noisy, kind) for kind in ("valid", "release"))
    assert release.action.item() == pytest.approx(valid.action.item() * 5 / 6)  # 5 of 6 columns are used
    assert release.video == valid.video


def test_without_video_loss_the_total_is_the_actions(noisy):
    found = losses(None, torch.zeros_like(noisy.action_target), noisy)
    assert found.video is None and found.total is found.action


def test_without_frame_0_the_video_loss_is_the_mean_over_the_frames_of_chunks(noisy):
    video, action = torch.zeros_like(noisy.video_target), noisy.action_target
    error = noisy.video_target.square().mean((1, 3, 4)) * noisy.video_weight
    expected = (error[0, 1:3].mean() + error[1, 1:5].mean()) / 2
    assert losses(video[:, :, 1:], action, noisy).video.item() == pytest.approx(expected.item(), rel=1e-6)
    assert losses(video, action, noisy).video.item() != pytest.approx(expected.item(), rel=1e-3)
