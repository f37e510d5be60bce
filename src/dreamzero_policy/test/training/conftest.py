"""A model that trains in milliseconds, and windows for it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from dreamzero_policy.data.pictures import Picture, Question
from dreamzero_policy.data.windows import unclamped
from dreamzero_policy.model import checkpoint as checkpoints
from dreamzero_policy.model.config import ModelConfig
from dreamzero_policy.runtime.contract import Contract, load_contract
from dreamzero_policy.runtime.embodiment import save_statistics
from dreamzero_policy.training.grounding import Grounding
from dreamzero_policy.training.latents import LatentWindow, save_latents
from dreamzero_policy.training.settings import GroundingSettings, JointSettings
from dreamzero_policy.training.trainer import Trainer

CONFIG = Path(__file__).parents[4] / "config"
CONTRACT = CONFIG / "agibot_g1.yaml"


@pytest.fixture(autouse=True)
def one_thread():
    """As the processes that tests start: sums over another number of threads round differently."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def small_config(
    layers: int = 1, state_attention: str = "training", state_dim: int = 5, predicts: str = "velocity"
) -> ModelConfig:
    """A canvas of 16 × 16 pixels: one video token a latent frame. States of the contract need a `state_dim` of 20."""
    return ModelConfig.from_dict(
        {
            "variant": "test",
            "geometry": {
                "canvas_height": 16,
                "canvas_width": 16,
                "actions_per_chunk": 4,
                "max_action_dim": 6,
                "max_state_dim": state_dim,
            },
            "transformer": {
                "num_layers": layers,
                "num_attention_heads": 2,
                "attention_head_dim": 12,
                "ffn_dim": 32,
                "freq_dim": 16,
                "control_hidden_dim": 16,
                "image_condition": False,
                "predicts": predicts,
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
            "sampler": {"cfg_scale": 1.0, "steps": 2, "state_attention": state_attention},
        }
    )


def some_window(chunks: int, seed: int) -> LatentWindow:
    g = torch.Generator().manual_seed(seed)
    return LatentWindow(
        (f"touch object {seed}",),
        np.full((16, 16, 3), 10 * seed % 256, np.uint8),
        torch.randn(4, 1 + 2 * chunks, 2, 2, generator=g),
        torch.randn(chunks, 3, generator=g),
        torch.randn(chunks, 4, 5, generator=g),
    )


def trainer(
    config: ModelConfig | None = None, windows: Sequence[LatentWindow] | None = None, **changes: Any
) -> Trainer:
    return Trainer(
        config or small_config(),
        JointSettings(**{"steps": 8, "batch": 1, "warm_up": 2, "bfloat16": False, **changes}),
        windows or [some_window(1 + i % 2, i) for i in range(6)],
        None,
    )


def some_pictures(count: int, size: int) -> list[Picture]:
    """Dark squares with a red and a green quarter each, where they are, and some state of the robot."""
    rng, half = np.random.default_rng(0), size // 2
    width = len(load_contract(CONTRACT).model.state_joints)
    pictures = []
    for _ in range(count):
        canvas, questions = rng.integers(0, 20, (size, size, 3), dtype=np.uint8), []
        for channel, (name, quarter) in enumerate(zip(("red", "green"), rng.permutation(4)[:2], strict=True)):
            row, column = half * (quarter // 2), half * (quarter % 2)
            canvas[row : row + half, column : column + half, channel] += 200
            points = np.array([[column + 0.75 * half, row + 0.5 * half]])
            questions.append(Question((f"touch the {name} one", f"push the {name} one"), points))
        pictures.append(Picture(canvas, rng.uniform(-1, 1, width), tuple(questions)))
    return pictures


def drawn_autoencoder(config: ModelConfig) -> torch.nn.Module:
    """The same one every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return checkpoints.builders(config)["vae"]()


def grounding(config: ModelConfig, settings: GroundingSettings, pictures: Sequence[Picture]) -> Grounding:
    embodiment = unclamped(load_contract(CONTRACT))
    return Grounding(config, settings, pictures, embodiment, drawn_autoencoder(config))


# A run folder as the stages before leave it, for tests of the stages after


def filled_run(folder: Path, joint: dict[str, Any], **more: dict[str, Any]) -> Path:
    """Write windows, configuration, autoencoder and a recipe into a folder; returns the recipe.

    ``more`` are its other sections.
    """
    config, contract = small_config(state_dim=20), load_contract(CONTRACT)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    (folder / "model.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(config.to_dict()))))
    wide = unclamped(contract).statistics
    save_statistics(folder / "statistics.json", contract, wide.state, wide.action)
    drawn_autoencoder(config).save_pretrained(folder / "vae")
    for side, first, count in (("latents", 0, 8), ("validation", 100, 3)):
        (folder / side).mkdir(exist_ok=True)
        save_latents(folder / side / "000000.npz", contract, [some_window(1 + i % 4, first + i) for i in range(count)])
    recipe = {
        "model": "model.yaml",
        "contract": str(CONTRACT),
        "autoencoder": {},
        "latents": {},
        "joint": {"steps": 6, "batch": 2, "warm_up": 2, "save_every": 2, **joint},
    } | more
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder / "recipe.yaml"


@pytest.fixture
def fill_run():
    return filled_run


@pytest.fixture
def contract() -> Contract:
    return load_contract(CONTRACT)


@pytest.fixture
def make_config():
    return small_config


@pytest.fixture
def make_window():
    return some_window


@pytest.fixture
def make_pictures():
    return some_pictures


@pytest.fixture
def make_grounding():
    return grounding


@pytest.fixture
def make_trainer():
    return trainer


@pytest.fixture
def make_autoencoder():
    return drawn_autoencoder
