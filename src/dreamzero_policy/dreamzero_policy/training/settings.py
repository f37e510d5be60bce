"""A training recipe: one YAML file, one section for each stage. Unknown, missing and impossible fields are named.

A `grounding` section asks for a stage before `joint`, in which the networks (those of `joint.start`, or drawn ones)
learn to look at what an instruction names. A `flash` section asks for a last stage after `joint`. What it does not say
is as in `joint`, except that its noise is `flash` and that it goes on from the weights of `joint`.
"""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import yaml

from dreamzero_policy.training.autoencoder import AutoencoderSettings
from dreamzero_policy.training.noise import NOISES, WEIGHTINGS, NoiseSettings
from dreamzero_policy.training.objective import ACTION_LOSSES
from dreamzero_policy.training.tuning import TUNINGS

LENGTHS = ("same", "mixed")

Section = TypeVar("Section")


class RecipeError(ValueError):
    """A recipe that cannot be followed; the message names the field."""


@dataclass(frozen=True, kw_only=True)
class LatentSettings:
    """Which windows are encoded and kept."""

    windows_per_episode: int = 6
    validation: float = 0.1  # share of the episodes that is kept for it, chosen by their names
    trim_idle: bool = False  # cut the idle start and end of every episode
    statistics: Path | None = None  # of the checkpoint that training goes on from; None: made from the episodes
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class GroundingSettings:
    """How encoders and transformer learn to look at what an instruction names."""

    steps: int = 1500
    batch: int = 24  # pictures, with all their questions
    learning_rate: float = 1e-3
    warm_up: int = 100
    weight_decay: float = 0.01
    bfloat16: bool = False
    validation: float = 0.02  # share of the pictures that is kept for it
    validate_every: int = 100
    save_every: int = 100
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class JointSettings(NoiseSettings):
    """How the transformer is trained, and both condition encoders with it if they are to be."""

    steps: int
    batch: int = 4
    lengths: str = "same"
    beginnings: float = 0.0
    openings: float = 0.5  # share of the windows of such a step that are the first of their episodes
    learning_rate: float = 1e-3
    warm_up: int = 60
    weight_decay: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.99
    gradient_norm: float = 1.0
    ema: float = 0.995
    shift: float = 5.0
    bfloat16: bool = False
    save_every: int = 100
    export_every: int = 0
    seed: int = 0
    action_loss: str = "valid"
    action_weight: float = 1.0
    first_frame: bool = True  # is denoised too, as released
    train_encoders: bool = True
    heads_first: int = 0  # steps
    looks_every: int = 0  # steps; 0 never
    looks_batch: int = 16  # pictures
    looks_weight: float = 0.5
    start: Path | None = None
    tuning: str = "full"
    lora_rank: int = 4
    lora_alpha: float = 4.0
    gradient_checkpointing: bool = False
    shard: bool = False
    validate_every: int = 0
    dream_every: int = 0


@dataclass(frozen=True)
class Recipe:
    """All of a training."""

    model: Path
    contract: Path
    autoencoder: AutoencoderSettings
    latents: LatentSettings
    joint: JointSettings
    flash: JointSettings | None = None
    grounding: GroundingSettings | None = None
    path: Path | None = None  # where it was read

    @classmethod
    def load(cls, path: Path, model: Path | None = None) -> "Recipe":
        """Read a recipe; `model` stands in for the model configuration that it names.

        Raises:
            RecipeError: a field is unknown, missing or has an impossible value.
        """
        try:
            document = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise RecipeError(f"{path} cannot be read: {error}") from error
        if not isinstance(document, dict):
            raise RecipeError(f"{path} is not a table of sections")
        needed = {"model", "contract", "autoencoder", "latents", "joint"}
        if odd := sorted((set(document) | needed) - (set(document) & (needed | {"grounding", "flash"}))):
            raise RecipeError(f"{path}: {odd[0]} is {'unknown' if odd[0] in document else 'missing'}")
        joint = section(JointSettings, path, "joint", document["joint"])
        flash = None
        if "flash" in document:
            given = document["flash"] or {}
            inherited = replace(joint, noise="flash", start=None, from_noise=0.0)
            flash = section(JointSettings, path, "flash", given, inherited)
            if flash.from_noise:
                raise RecipeError(
                    f"{path}: flash.from_noise is {flash.from_noise}, but the noise of that stage is its own (video "
                    "high, actions anywhere); leave the field out"
                )
            if joint.tuning == "lora" and flash.start is None:
                raise RecipeError(
                    f"{path}: flash.start is missing; joint.tuning is lora, whose state holds adapters alone: name the "
                    "checkpoint that joint writes"
                )
        grounding = None
        if "grounding" in document:
            grounding = section(GroundingSettings, path, "grounding", document["grounding"] or {})
        for name, stage in (("joint", joint), ("flash", flash)):
            if stage is not None and stage.shard and stage.looks_every:
                raise RecipeError(
                    f"{path}: {name}.looks_every does not go with {name}.shard; set one of them to 0, false"
                )
        return cls(
            model or path.parent / str(document["model"]),
            path.parent / str(document["contract"]),
            section(AutoencoderSettings, path, "autoencoder", document["autoencoder"]),
            section(LatentSettings, path, "latents", document["latents"]),
            joint,
            flash,
            grounding,
            path,
        )


def section(kind: type[Section], path: Path, name: str, given: Any, inherited: Section | None = None) -> Section:
    """One section of the file as its dataclass. Paths are relative to the file. Raises RecipeError."""
    if not isinstance(given, dict):
        raise RecipeError(f"{path}: {name} is not a table of fields")
    hints = get_type_hints(kind)
    if unknown := sorted(set(given) - set(hints)):
        raise RecipeError(f"{path}: {name}.{unknown[0]} is unknown; known: {', '.join(sorted(hints))}")
    values = {field: _value(hints[field], value, path, f"{name}.{field}") for field, value in given.items()}
    if inherited is not None:
        values = {field.name: getattr(inherited, field.name) for field in fields(kind)} | values
    try:
        made = kind(**values)
    except TypeError as error:
        missing = sorted(field.name for field in fields(kind) if field.name not in values and field.name in str(error))
        raise RecipeError(f"{path}: {name}.{missing[0]} is missing") from error
    for field, fits, expected in LIMITS:
        value = getattr(made, field, None)
        if value is not None and not fits(value):
            raise RecipeError(f"{path}: {name}.{field} is {value!r}, expected {expected}")
    return made


def _among(names: tuple[str, ...]) -> tuple[Any, str]:
    return (lambda value: value in names), " or ".join(names)


# Field of any section, what it must fulfil, the same in words
LIMITS = (
    ("noise", *_among(NOISES)),
    ("video_weighting", *_among(WEIGHTINGS)),
    ("action_weighting", *_among(WEIGHTINGS)),
    ("action_loss", *_among(ACTION_LOSSES)),
    ("lengths", *_among(LENGTHS)),
    ("tuning", *_among(TUNINGS)),
    ("action_weight", lambda w: w > 0, "a number above 0"),
    ("heads_first", lambda n: n >= 0, "at least 0"),
    ("looks_every", lambda n: n >= 0, "0 for never, or more"),
    ("looks_batch", lambda n: n >= 1, "at least 1"),
    ("looks_weight", lambda w: w > 0, "a number above 0"),
    ("lora_rank", lambda r: r >= 1, "at least 1"),
    ("validate_every", lambda n: n >= 0, "0 for never, or more"),
    ("dream_every", lambda n: n >= 0, "0 for never, or more"),
    ("batch", lambda n: n >= 1, "at least 1"),
    ("steps", lambda n: n >= 0, "at least 0"),
    ("save_every", lambda n: n >= 1, "at least 1"),
    ("export_every", lambda n: n >= 0, "0 for never, or more"),
    ("windows_per_episode", lambda n: n >= 1, "at least 1"),
    ("validation", lambda p: 0 <= p < 1, "at least 0 and below 1"),
    ("beginnings", lambda p: 0 <= p <= 1, "a share of the steps"),
    ("openings", lambda p: 0 <= p <= 1, "a share of the windows"),
    ("from_noise", lambda p: 0 <= p <= 1, "a probability"),
    ("noisy_history", lambda p: 0 <= p <= 1, "a probability"),
    ("history_noise", lambda s: 0 <= s <= 1, "a noise level between 0 and 1"),
    ("video_beta", lambda a: a > 0, "a number above 0"),
    ("ema", lambda d: 0 <= d < 1, "at least 0 and below 1"),
)


def _value(hint: Any, value: Any, path: Path, where: str) -> Any:
    """A value as its annotation asks: whole number, number, truth value, text, or a path beside the file."""
    kinds = [kind for kind in get_args(hint) or (hint,) if kind is not type(None)]
    if value is None and type(None) in get_args(hint):
        return None
    (kind,) = kinds
    if kind is Path and isinstance(value, str):
        return path.parent / value
    number = isinstance(value, int | float) and not isinstance(value, bool)
    fits = {int: isinstance(value, int) and number, float: number}.get(kind, isinstance(value, kind))
    if not fits:
        raise RecipeError(f"{path}: {where} is {value!r}, expected a value of type {kind.__name__}")
    return float(value) if kind is float else value
