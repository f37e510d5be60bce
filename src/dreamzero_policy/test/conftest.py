"""A model small enough to run in every test."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dreamzero_policy.model.config import ModelConfig

VARIANTS = Path(__file__).parents[3] / "config" / "models"


@pytest.fixture(scope="session")
def small_config() -> ModelConfig:
    """The tiny variant, shrunk: 32x32 px, 4 tokens a frame, two layers of width 32."""
    tiny = ModelConfig.from_file(VARIANTS / "tiny.yaml")
    return replace(
        tiny,
        variant="small",
        geometry=replace(tiny.geometry, canvas_height=32, canvas_width=32, actions_per_chunk=3, max_action_dim=5),
        transformer=replace(
            tiny.transformer,
            image_condition=True,  # the larger variants have it
            num_layers=2,
            num_attention_heads=2,
            attention_head_dim=16,
            ffn_dim=64,
            control_hidden_dim=16,
            predicts="velocity",  # as released weights do
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
    )


@pytest.fixture(scope="session")
def write_checkpoint() -> Callable[[ModelConfig, Path], Path]:
    """Writes a model of random weights into a folder, the same ones every time, and gives the folder back."""
    import torch  # here, since most rooms do without

    from dreamzero_policy.model import checkpoint

    def write(config: ModelConfig, folder: Path) -> Path:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            networks = checkpoint.build(config)
            networks.transformer.initialise_weights()
            torch.nn.init.normal_(networks.transformer.proj_out.weight, std=0.1)  # untrained it hides the rest: zero
        checkpoint.save(networks, config, folder)
        return folder

    return write
