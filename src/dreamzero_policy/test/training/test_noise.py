"""What noise a step draws: one level a chunk, coupled or apart, and a clean past that may be slightly off."""

from dataclasses import replace

import pytest
import torch

from dreamzero_policy.model.flow import NoiseTable, sampling_schedule
from dreamzero_policy.training.latents import Batch, collate
from dreamzero_policy.training.noise import BLIND_NOISE, BLIND_TIME, NoiseSettings, NoisyBatch, corrupt, draw_levels

TABLE = NoiseTable.shifted(5.0)


@pytest.fixture
def batch(make_window, make_config) -> Batch:
    return collate([make_window(2, 0), make_window(2, 1)], make_config())


def noised(batch: Batch, **settings) -> NoisyBatch:
    return corrupt(batch, TABLE, torch.Generator().manual_seed(0), NoiseSettings(**settings))


def test_a_share_of_the_chunks_has_the_noise_that_sampling_begins_with():
    def shares(from_noise: float) -> float:
        settings = NoiseSettings(from_noise=from_noise)
        video, action = draw_levels(2000, 3, settings, torch.Generator().manual_seed(0))
        assert torch.equal(video[:, 1:], action)
        return (TABLE.times[action] > 998).float().mean().item()

    assert shares(0.0) == pytest.approx(0.01, abs=0.005)
    assert shares(0.6) == pytest.approx(0.604, abs=0.03)


def test_coupled_noise_has_one_level_for_the_video_and_the_actions_of_a_chunk(batch):
    noisy = noised(batch)
    for time, action in zip(noisy.video_time.tolist(), noisy.action_time.tolist(), strict=True):
        assert time[1] == time[2] == action[0]
        assert time[3] == time[4] == action[1]
        assert len({time[0], time[1], time[3]}) == 3


def test_flash_draws_the_level_of_the_video_and_of_the_actions_apart_for_every_chunk(batch):
    noisy = noised(batch, noise="flash")
    video, action = noisy.video_time[:, 1::2], noisy.action_time
    assert (noisy.video_time[:, 1::2] == noisy.video_time[:, 2::2]).all()
    assert (video != action).all() and len(set(action.flatten().tolist())) == 4


def test_flash_levels_follow_beta_for_the_video_and_are_uniform_for_the_actions():
    video, action = draw_levels(20_000, 4, NoiseSettings(noise="flash"), torch.Generator().manual_seed(0))
    assert video.min() >= 0 and video.max() <= 999
    assert TABLE.sigmas[video].mean().item() == pytest.approx(0.969, abs=1e-3)  # of Beta(7, 1) on the shifted table
    assert TABLE.sigmas[action].mean().item() == pytest.approx(0.7476, abs=3e-3)  # of the uniform draw
    video, _ = draw_levels(20_000, 4, NoiseSettings(noise="flash", video_beta=3.0), torch.Generator().manual_seed(0))
    assert TABLE.sigmas[video].mean().item() == pytest.approx(0.921, abs=1e-3)


def test_velocities_are_weighted_by_the_bell_or_alike_or_as_errors_of_the_sample(batch):
    bell = noised(batch)
    for name, time in (("video", bell.video_time), ("action", bell.action_time)):
        levels = TABLE.index_of(time)
        torch.testing.assert_close(getattr(bell, f"{name}_weight"), TABLE.weights[levels])
        flat, sample = (noised(batch, **{f"{name}_weighting": kind}) for kind in ("flat", "sample"))
        assert (getattr(flat, f"{name}_weight") == 1).all()
        torch.testing.assert_close(getattr(sample, f"{name}_weight"), (time / 1000).square())
    assert torch.equal(noised(batch, action_weighting="flat").video_weight, bell.video_weight)


def test_columns_beyond_the_contract_are_pure_noise_at_every_level(make_window, make_config):
    batch = collate([make_window(2, i) for i in range(64)], make_config())
    noisy = noised(batch)
    assert noisy.action[..., 5].std().item() == pytest.approx(1, abs=0.1)
    assert torch.equal(noisy.action[..., 5], noisy.action_target[..., 5])


def test_for_a_network_that_predicts_samples_they_hold_zeros_with_as_much_noise_as_the_others(make_window, make_config):
    batch = collate([make_window(2, i) for i in range(4)], make_config())
    noisy = corrupt(batch, TABLE, torch.Generator().manual_seed(0), NoiseSettings(), padding_is_noise=False)
    sigma = (noisy.action_time / 1000).repeat_interleave(4, 1)
    torch.testing.assert_close(noisy.action[..., 5], sigma * noisy.action_target[..., 5])


def test_a_noisy_history_changes_only_what_is_shown_and_only_of_some_items(make_window, make_config):
    batch = collate([make_window(2, i) for i in range(200)], make_config())
    plain, noisy = noised(batch), noised(batch, noisy_history=0.3, history_noise=0.2)
    off = (noisy.history - batch.latents).flatten(1).abs().amax(1)
    assert 0.2 < (off > 0).float().mean() < 0.4
    assert 0 < off.max() < 0.2 * 12
    assert plain.history is batch.latents
    assert torch.equal(plain.video_target, noisy.video_target) and torch.equal(plain.action, noisy.action)


def test_where_history_differs_from_what_is_to_be_predicted_it_is_the_past_and_never_the_target(
    make_window, make_config
):
    plain = make_window(2, 1)
    advised = replace(plain, history=plain.latents + 1)
    noisy, other = (
        corrupt(collate([window], make_config()), TABLE, torch.Generator().manual_seed(0), NoiseSettings())
        for window in (advised, plain)
    )
    torch.testing.assert_close(noisy.history[0], plain.latents + 1)
    torch.testing.assert_close(other.history[0], plain.latents)
    for name in ("video", "video_target", "action", "action_target"):
        assert torch.equal(getattr(noisy, name), getattr(other, name))


def test_without_video_loss_the_video_is_noise_at_the_time_that_serving_gives_it(batch):
    noisy = noised(batch, video_loss=False)
    assert torch.allclose(noisy.video, noisy.video_target + batch.latents, atol=1e-6)  # ε alone
    assert (noisy.video_time == BLIND_TIME).all()
    for steps in (1, 2, 4, 16):
        served = sampling_schedule(steps, 5.0, BLIND_NOISE).times
        assert set(served) == {int(BLIND_TIME)}
    assert torch.equal(noisy.action, noised(batch).action)
