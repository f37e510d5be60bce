"""A training recipe: one YAML file, one section for each stage. Unknown and missing fields are named."""

from dataclasses import dataclass, fields
from pathlib import Path

import yaml

from dreamzero_policy.training.autoencoder import AutoencoderSettings


class RecipeError(ValueError):
    """A recipe that cannot be followed; the message names the field."""


@dataclass(frozen=True, kw_only=True)
class LatentSettings:
    """Which windows are encoded and kept."""

    windows_per_episode: int = 6
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class JointSettings:
    """How the transformer and both condition encoders are trained."""

    steps: int
    batch: int = 4
    learning_rate: float = 1e-3
    warm_up: int = 60
    weight_decay: float = 0.01
    beta2: float = 0.99
    gradient_norm: float = 1.0
    ema: float = 0.995
    shift: float = 5.0
    bfloat16: bool = False
    save_every: int = 100
    export_every: int = 0
    seed: int = 0


@dataclass(frozen=True)
class Recipe:
    """All of a training."""

    model: Path
    contract: Path
    autoencoder: AutoencoderSettings
    latents: LatentSettings
    joint: JointSettings

    @classmethod
    def load(cls, path: Path, model: Path | None = None) -> "Recipe":
        """Read a recipe; `model` stands in for the model configuration that it names.

        Raises:
            RecipeError: a field is unknown or missing.
        """
        document = yaml.safe_load(path.read_text())
        sections = {"autoencoder": AutoencoderSettings, "latents": LatentSettings, "joint": JointSettings}
        if odd := sorted(set(document) ^ {"model", "contract", *sections}):
            raise RecipeError(f"{path}: {odd[0]} is {'unknown' if odd[0] in document else 'missing'}")
        made = {}
        for name, kind in sections.items():
            known = {field.name for field in fields(kind)}
            if unknown := sorted(set(document[name]) - known):
                raise RecipeError(f"{path}: {name}.{unknown[0]} is unknown; known: {', '.join(sorted(known))}")
            made[name] = kind(**document[name])
        return cls(model or path.parent / document["model"], path.parent / document["contract"], **made)
