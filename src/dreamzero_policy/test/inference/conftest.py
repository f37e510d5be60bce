"""A checkpoint small enough to serve in every test."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dreamzero_policy.inference.loading import Policy, load_policy
from dreamzero_policy.model.config import ModelConfig


@pytest.fixture(autouse=True)
def _few_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def guided_config(small_config: ModelConfig) -> ModelConfig:
    return replace(small_config, sampler=replace(small_config.sampler, steps=2, cfg_scale=2.0))


@pytest.fixture(scope="session")
def checkpoint_folder(guided_config, write_checkpoint, tmp_path_factory) -> Path:
    return write_checkpoint(guided_config, tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="session")
def policy(checkpoint_folder) -> Policy:
    return load_policy(checkpoint_folder)


@pytest.fixture(scope="session")
def policy_without_image_condition(guided_config, write_checkpoint, tmp_path_factory) -> Policy:
    """The layout of the 5 B variant: latents carry no image condition."""
    config = replace(guided_config, transformer=replace(guided_config.transformer, image_condition=False))
    return load_policy(write_checkpoint(config, tmp_path_factory.mktemp("checkpoint")))


@pytest.fixture(scope="session")
def frames() -> np.ndarray:
    """Ten blocks of eight canvases."""
    return np.random.default_rng(0).integers(0, 256, (10, 8, 32, 32, 3), dtype=np.uint8)
