"""A checkpoint small enough to serve in every test."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from dreamzero_policy.inference.loading import Policy, load_policy
from dreamzero_policy.model import checkpoint
from dreamzero_policy.model.config import ModelConfig

VARIANTS = Path(__file__).parents[4] / "config" / "models"


@pytest.fixture(autouse=True)
def _few_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def small(**transformer: object) -> ModelConfig:
    """The tiny variant, shrunk: 32x32 px, 4 tokens a frame, two layers of width 32."""
    tiny = ModelConfig.from_file(VARIANTS / "tiny.yaml")
    replace = dataclasses.replace
    sizes = {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 16, "ffn_dim": 64}
    return replace(
        tiny,
        variant="small",
        geometry=replace(tiny.geometry, canvas_height=32, canvas_width=32, actions_per_chunk=3, max_action_dim=5),
        transformer=replace(
            tiny.transformer, **{**sizes, "control_hidden_dim": 16, "image_condition": True, **transformer}
        ),
        autoencoder=replace(
            tiny.autoencoder,
            base_dim=4,
            latent_channels=16,
            patch_size=2,
            latents_mean=(0.0,) * 16,
            latents_std=(1.0,) * 16,
        ),
        text_encoder=replace(
            tiny.text_encoder,
            tokenizer="bytes",
            vocab_size=259,
            text_length=48,
            dim=16,
            num_heads=2,
            head_dim=8,
            ffn_dim=32,
        ),
        image_encoder=replace(tiny.image_encoder, image_size=32, dim=32, num_layers=3, num_heads=2, ffn_dim=64),
        sampler=replace(tiny.sampler, steps=2, cfg_scale=2.0),
    )


def write(config: ModelConfig, folder: Path) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        networks = checkpoint.build(config)
        networks.transformer.initialise_weights()
        torch.nn.init.normal_(networks.transformer.proj_out.weight, std=0.1)  # untrained it is zero and hides the rest
    checkpoint.save(networks, config, folder)
    return folder


@pytest.fixture(scope="session")
def checkpoint_folder(tmp_path_factory) -> Path:
    return write(small(), tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="session")
def policy(checkpoint_folder) -> Policy:
    return load_policy(checkpoint_folder)


@pytest.fixture(scope="session")
def policy_without_image_condition(tmp_path_factory) -> Policy:
    """The layout of the 5 B variant: latents carry no image condition."""
    return load_policy(write(small(image_condition=False), tmp_path_factory.mktemp("checkpoint")))


@pytest.fixture(scope="session")
def frames() -> np.ndarray:
    """Ten blocks of eight canvases."""
    return np.random.default_rng(0).integers(0, 256, (10, 8, 32, 32, 3), dtype=np.uint8)
