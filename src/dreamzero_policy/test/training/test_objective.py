"""What the objective promises: perfect is zero, padding is nothing, a batch is the mean of its items."""

import dataclasses

import numpy as np
import pytest
import torch

from dreamzero_policy.model import checkpoint as checkpoints
from dreamzero_policy.model.config import ModelConfig
from dreamzero_policy.model.flow import NoiseTable
from dreamzero_policy.training.latents import Batch, LatentWindow, collate
from dreamzero_policy.training.objective import corrupt, losses, velocities
from dreamzero_policy.training.settings import JointSettings
from dreamzero_policy.training.train import Trainer

TABLE = NoiseTable.shifted(5.0)


def small_config() -> ModelConfig:
    """One layer on a canvas of 16 × 16 pixels."""
    return ModelConfig.from_dict(
        {
            "variant": "test",
            "geometry": {
                "canvas_height": 16,
                "canvas_width": 16,
                "actions_per_chunk": 4,
                "max_action_dim": 6,
                "max_state_dim": 5,
            },
            "transformer": {
                "num_layers": 1,
                "num_attention_heads": 2,
                "attention_head_dim": 12,
                "ffn_dim": 32,
                "freq_dim": 16,
                "control_hidden_dim": 16,
                "image_condition": False,
            },
            "autoencoder": {
                "base_dim": 4,
                "latent_channels": 4,
                "dim_mult": [1, 1, 1],
                "num_res_blocks": 1,
                "temporal_downsample": [True, True],
                "patch_size": 2,
                "latents_mean": [0.0] * 4,
                "latents_std": [1.0] * 4,
            },
            "text_encoder": {
                "tokenizer": "bytes",
                "vocab_size": 259,
                "text_length": 24,
                "dim": 16,
                "num_layers": 1,
                "num_heads": 2,
                "head_dim": 8,
                "ffn_dim": 16,
            },
            "image_encoder": {
                "image_size": 16,
                "patch_size": 8,
                "dim": 16,
                "num_layers": 2,
                "num_heads": 2,
                "ffn_dim": 16,
            },
            "sampler": {"cfg_scale": 1.0, "steps": 2, "state_attention": "training"},
        }
    )


def some_window(chunks: int, seed: int) -> LatentWindow:
    g = torch.Generator().manual_seed(seed)
    return LatentWindow(
        f"touch object {seed}",
        np.full((16, 16, 3), 10 * seed, np.uint8),
        torch.randn(4, 1 + 2 * chunks, 2, 2, generator=g),
        torch.randn(chunks, 3, generator=g),
        torch.randn(chunks, 4, 5, generator=g),
    )


def trainer(**changes) -> Trainer:
    windows = [some_window(1 + i % 2, i) for i in range(6)]
    return Trainer(
        small_config(),
        JointSettings(**{"steps": 8, "batch": 1, "warm_up": 2, "bfloat16": False, **changes}),
        windows,
        None,
    )


def test_a_perfect_prediction_has_no_loss_whatever_it_says_about_padding():
    noisy = corrupt(
        collate([some_window(1, 0), some_window(2, 1)], small_config()), TABLE, torch.Generator().manual_seed(0)
    )
    video, action = noisy.video_target.clone(), noisy.action_target.clone()
    video[0, :, 3:] = 1e3  # the second chunk of an item that has one
    action[0, 4:] = 1e3
    action[..., 5] = 1e3  # a column that the contract does not use
    perfect = losses(video, action, noisy)
    assert perfect.video == 0 and perfect.action == 0
    action[1, 7, 0] += 1
    assert losses(video, action, noisy).action > 0


def part_of(noisy, item: int, chunks: int):
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
    cut = {name: getattr(noisy, name)[[item], :, :frames] for name in ("video", "video_target")}
    cut |= {
        name: getattr(noisy, name)[[item], :rows]
        for name in ("action", "action_target", "action_time", "action_weight")
    }
    cut |= {name: getattr(noisy, name)[[item], :frames] for name in ("video_time", "video_weight")}
    return dataclasses.replace(noisy, batch=one, **cut)


def test_a_batch_of_two_lengths_is_the_mean_of_its_items():
    train = trainer()
    for parameter in train.networks["transformer"].parameters():  # the video head starts at zero
        torch.nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(parameter.numel()))
    noisy = corrupt(
        collate([some_window(1, 0), some_window(2, 1)], train.config), TABLE, torch.Generator().manual_seed(3)
    )

    def found(noisy):
        return losses(*velocities(train.networks["transformer"], noisy, train.context(noisy.batch), "training"), noisy)

    both, first, second = found(noisy), found(part_of(noisy, 0, 1)), found(part_of(noisy, 1, 2))
    for name in ("video", "action"):
        expected = (getattr(first, name) + getattr(second, name)) / 2
        assert getattr(both, name).item() == pytest.approx(expected.item(), rel=1e-4)


def test_a_chunk_has_one_noise_level_for_its_video_and_its_actions():
    noisy = corrupt(collate([some_window(2, 0)], small_config()), TABLE, torch.Generator().manual_seed(0))
    frame0, *rest = noisy.video_time[0].tolist()
    assert rest[0] == rest[1] == noisy.action_time[0, 0] == noisy.action_time[0, 3]
    assert rest[2] == rest[3] == noisy.action_time[0, 4]
    assert len({frame0, rest[0], rest[2]}) == 3


def test_an_interrupted_run_ends_with_the_weights_of_one_that_was_not(tmp_path):
    whole = trainer(bfloat16=True)
    for _ in range(4):
        whole.advance()
    first = trainer(bfloat16=True)
    for _ in range(2):
        first.advance()
    first.save_state(tmp_path / "state.pt")
    second = trainer(bfloat16=True, seed=0)
    second.load_state(tmp_path / "state.pt")
    for _ in range(2):
        second.advance()
    for key, tensor in whole.masters.items():
        assert torch.equal(tensor, second.masters[key]), key
        assert torch.equal(whole.average[key], second.average[key]), key


def test_training_lowers_the_loss_and_never_moves_padding_columns():
    train = trainer(steps=150, learning_rate=5e-3, batch=2)
    before = sum(
        train.losses_of(train.batch(1000 + i), torch.Generator().manual_seed(i)).total.item() for i in range(8)
    )
    for _ in range(150):
        train.advance()
    after = sum(train.losses_of(train.batch(1000 + i), torch.Generator().manual_seed(i)).total.item() for i in range(8))
    assert after < 0.95 * before
    networks = train.averaged_networks()
    assert (networks.transformer.action_decoder.layer2.W[..., 5:] == 0).all()
    noisy = corrupt(train.batch(0), TABLE, torch.Generator().manual_seed(0))
    assert (
        velocities(train.networks["transformer"], noisy, train.context(noisy.batch), "training")[1][..., 5] == 0
    ).all()


def test_averaged_networks_can_be_saved_and_loaded(tmp_path):
    train = trainer()
    train.vae = checkpoints.builders(train.config)["vae"]()
    train.advance()
    checkpoints.save(train.averaged_networks(), train.config, tmp_path, torch.bfloat16)
    networks, config = checkpoints.load(tmp_path, torch.float32)
    assert config == train.config
    expected = train.average["transformer.patch_embedding.weight"]
    assert torch.allclose(networks.transformer.patch_embedding.weight, expected, atol=1e-2)


def test_a_layout_that_training_does_not_prepare_for_is_refused_by_name():
    config = small_config()
    config = dataclasses.replace(config, transformer=dataclasses.replace(config.transformer, image_condition=True))
    with pytest.raises(ValueError, match=r"transformer\.image_condition"):
        Trainer(config, JointSettings(steps=1), [some_window(1, 0)], None)
