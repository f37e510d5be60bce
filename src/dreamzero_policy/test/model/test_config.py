"""Four variants of one model, and what is refused."""

from pathlib import Path

import pytest
import torch

from dreamzero_policy.model import checkpoint
from dreamzero_policy.model.config import ConfigError, ModelConfig

VARIANTS = Path(__file__).parents[4] / "config" / "models"


@pytest.mark.parametrize(
    ("variant", "tokens_per_frame", "tensors", "parameters"),
    [
        ("tiny", 16, 165, 5_921_056),
        ("medium", 220, 293, 42_948_192),
        ("wan2_2_5b", 50, 997, 5_606_692_832),
        ("wan2_1_14b", 880, 1317, 16_484_292_448),
    ],
)
def test_each_variant_builds_with_its_known_size(variant, tokens_per_frame, tensors, parameters):
    config = ModelConfig.from_file(VARIANTS / f"{variant}.yaml")
    with torch.device("meta"):
        transformer = checkpoint.build(config).transformer
    assert config.tokens_per_frame == tokens_per_frame
    assert config.latent_frames_per_window == 9
    assert len(transformer.state_dict()) == tensors
    assert sum(p.numel() for p in transformer.parameters()) == parameters


def test_a_configuration_survives_being_written():
    config = ModelConfig.from_file(VARIANTS / "tiny.yaml")
    assert ModelConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"transformer": {"num_layer": 3}}, "unknown field transformer.num_layer"),
        ({"geometry": {"canvas_height": "128"}}, "geometry.canvas_height must be of type int, got '128'"),
        ({"geometry": {"canvas_height": 120}}, "geometry.canvas_height is 120 px, not a multiple of 32"),
        ({"autoencoder": {"latents_mean": [0.0]}}, "autoencoder.latents_mean has 1 values for 48"),
        ({"autoencoder": {"temporal_downsample": [True, False]}}, "shrinks time by 2, the chunks need 4"),
        ({"sampler": {"state_attention": "all"}}, "sampler.state_attention is 'all'"),
        ({"sampler": {"steps": True}}, "sampler.steps must be of type int, got True"),
    ],
)
def test_a_wrong_field_is_named_with_its_value(change, message):
    values = ModelConfig.from_file(VARIANTS / "tiny.yaml").to_dict()
    for section, fields in change.items():
        values[section] |= fields
    with pytest.raises(ConfigError, match=message):
        ModelConfig.from_dict(values)


def test_a_missing_field_and_a_missing_file_are_named(tmp_path):
    values = ModelConfig.from_file(VARIANTS / "tiny.yaml").to_dict()
    del values["transformer"]["num_layers"]
    with pytest.raises(ConfigError, match=r"missing field transformer\.num_layers"):
        ModelConfig.from_dict(values)
    with pytest.raises(ConfigError, match=r"no model configuration at .*nowhere\.yaml"):
        ModelConfig.from_file(tmp_path / "nowhere.yaml")
