"""What a world-action model is made of: one frozen configuration, four variants.

The variants are data (``config/models/{tiny,medium,wan2_2_5b,wan2_1_14b}.yaml``) and differ in sizes only; every one of
them runs through the same code. A checkpoint carries its configuration as ``config.json`` with the same fields.

Words used for sizes, everywhere in this room:

* a *window* is one first latent frame followed by ``chunks_per_window`` chunks;
* a *chunk* is ``frames_per_chunk`` latent frames of video, ``actions_per_chunk`` action tokens and one state token;
* a latent frame stands for ``TEMPORAL_FACTOR`` raw frames, except the first, which stands for one.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

import yaml

TEMPORAL_FACTOR = 4  # raw frames per latent frame; a property of every Wan autoencoder
PATCH_SIZE = (1, 2, 2)  # latent frames, rows, columns of one video token; the same in every Wan transformer
CONDITION_MASK_CHANNELS = 4  # channels of the image condition that say which latent frame was given

STATE_ATTENTION = ("release", "training")
VAE_MODES = ("stream", "release")


class ConfigError(ValueError):
    """A model configuration that cannot be built; the message names the field and the values."""


@dataclass(frozen=True, kw_only=True)
class GeometryConfig:
    """Sizes shared by all parts: the canvas the cameras are tiled on, the chunk, the window."""

    canvas_height: int
    canvas_width: int
    frames_per_chunk: int = 2
    chunks_per_window: int = 4
    actions_per_chunk: int = 24
    max_action_dim: int = 32
    max_state_dim: int = 64


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """The video and action transformer.

    ``image_condition``: latents carry the image condition as extra channels. ``predicts``: whether the heads give the
    velocity itself, as released weights do, or the clean sample that implies it (``transformer.py``).
    """

    num_layers: int
    num_attention_heads: int
    attention_head_dim: int
    ffn_dim: int
    freq_dim: int = 256
    control_hidden_dim: int = 1024
    image_condition: bool = True
    predicts: str = "velocity"


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    """The causal video autoencoder (diffusers ``AutoencoderKLWan``). ``patch_size`` folds pixels into channels."""

    base_dim: int
    decoder_base_dim: int | None = None
    latent_channels: int = 16
    dim_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    temporal_downsample: tuple[bool, ...] = (False, True, True)
    patch_size: int | None = None
    residual: bool = False
    latents_mean: tuple[float, ...]
    latents_std: tuple[float, ...]

    @property
    def spatial_factor(self) -> int:
        """Pixels per latent row or column."""
        return (self.patch_size or 1) * 2 ** (len(self.dim_mult) - 1)


@dataclass(frozen=True, kw_only=True)
class TextEncoderConfig:
    """The UMT5 encoder. ``tokenizer``: ``bytes`` needs no vocabulary, ``files`` needs the tokenizer's own files."""

    tokenizer: str
    vocab_size: int
    text_length: int
    dim: int
    num_layers: int
    num_heads: int
    head_dim: int
    ffn_dim: int


@dataclass(frozen=True, kw_only=True)
class ImageEncoderConfig:
    """The CLIP image tower; the hidden state before its last block is what the transformer sees."""

    image_size: int
    patch_size: int
    dim: int
    num_layers: int
    num_heads: int
    ffn_dim: int

    @property
    def tokens(self) -> int:
        """Image tokens, class token included."""
        return (self.image_size // self.patch_size) ** 2 + 1


@dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """Defaults of one prediction; each can be overridden per call.

    ``evaluations`` applies to 16 steps only: how many of them are evaluated, the others reuse the last velocity.
    ``video_final_noise`` is the noise level at which the video stops while the action goes on to zero.
    ``window_chunks`` is how many chunks a window has at most, None for all that the geometry has room for. A shorter
    one forgets sooner and shows the image encoder a newer frame.
    ``vae_mode`` says how camera frames are encoded: ``stream`` as in training, ``release`` as the released server does.
    """

    steps: int = 16
    evaluations: int = 8
    cfg_scale: float = 5.0
    shift: float = 5.0
    seed: int = 1140
    negative_prompt: str = ""
    video_final_noise: float | None = None
    state_attention: str = "release"
    vae_mode: str = "stream"
    window_chunks: int | None = None


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A world-action model: geometry, four networks, sampler defaults.

    Raises :class:`ConfigError` when sizes do not fit each other; the message holds both numbers.
    """

    variant: str
    geometry: GeometryConfig
    transformer: TransformerConfig
    autoencoder: AutoencoderConfig
    text_encoder: TextEncoderConfig
    image_encoder: ImageEncoderConfig
    sampler: SamplerConfig = field(default_factory=SamplerConfig)

    def __post_init__(self) -> None:
        geometry, autoencoder, image = self.geometry, self.autoencoder, self.image_encoder
        step = autoencoder.spatial_factor * PATCH_SIZE[1]
        for name in ("canvas_height", "canvas_width"):
            size = getattr(geometry, name)
            _require(size % step == 0, f"geometry.{name} is {size} px, not a multiple of {step} px (one video token)")
        for name in ("latents_mean", "latents_std"):
            count = len(getattr(autoencoder, name))
            _require(
                count == autoencoder.latent_channels,
                f"autoencoder.{name} has {count} values for {autoencoder.latent_channels} latent channels",
            )
        factor = 2 ** sum(autoencoder.temporal_downsample)
        _require(factor == TEMPORAL_FACTOR, f"autoencoder shrinks time by {factor}, the chunks need {TEMPORAL_FACTOR}")
        _require(
            len(autoencoder.temporal_downsample) == len(autoencoder.dim_mult) - 1,
            f"autoencoder.temporal_downsample has {len(autoencoder.temporal_downsample)} entries for "
            f"{len(autoencoder.dim_mult)} levels; it needs one fewer than levels",
        )
        _require(
            image.image_size % image.patch_size == 0,
            f"image_encoder.image_size {image.image_size} is not a multiple of its patch_size {image.patch_size}",
        )
        _require(self.transformer.attention_head_dim % 2 == 0, "transformer.attention_head_dim must be even")
        _require(
            self.text_encoder.tokenizer in ("bytes", "files"),
            f"text_encoder.tokenizer is {self.text_encoder.tokenizer!r}, expected 'bytes' or 'files'",
        )
        _require(
            self.sampler.state_attention in STATE_ATTENTION,
            f"sampler.state_attention is {self.sampler.state_attention!r}, expected one of {STATE_ATTENTION}",
        )
        _require(
            self.sampler.window_chunks is None or 1 <= self.sampler.window_chunks <= geometry.chunks_per_window,
            f"sampler.window_chunks is {self.sampler.window_chunks}, expected 1 to geometry.chunks_per_window "
            f"= {geometry.chunks_per_window}",
        )
        _require(
            self.sampler.vae_mode in VAE_MODES,
            f"sampler.vae_mode is {self.sampler.vae_mode!r}, expected one of {VAE_MODES}",
        )

    @property
    def dim(self) -> int:
        """Width of the transformer."""
        return self.transformer.num_attention_heads * self.transformer.attention_head_dim

    @property
    def latent_height(self) -> int:
        return self.geometry.canvas_height // self.autoencoder.spatial_factor

    @property
    def latent_width(self) -> int:
        return self.geometry.canvas_width // self.autoencoder.spatial_factor

    @property
    def tokens_per_frame(self) -> int:
        """Video tokens of one latent frame."""
        return (self.latent_height // PATCH_SIZE[1]) * (self.latent_width // PATCH_SIZE[2])

    @property
    def latent_frames_per_window(self) -> int:
        return 1 + self.geometry.chunks_per_window * self.geometry.frames_per_chunk

    @property
    def raw_frames_per_chunk(self) -> int:
        """Camera frames of one block."""
        return self.geometry.frames_per_chunk * TEMPORAL_FACTOR

    @property
    def transformer_in_channels(self) -> int:
        """Channels of the video tokens' input: latents and, where the layout has it, the image condition."""
        channels = self.autoencoder.latent_channels
        return 2 * channels + CONDITION_MASK_CHANNELS if self.transformer.image_condition else channels

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelConfig:
        """Build from plain data; unknown, missing and ill-typed fields raise :class:`ConfigError` by name."""
        return _build(cls, values, "")

    @classmethod
    def from_file(cls, path: str | Path) -> ModelConfig:
        """Read a YAML or JSON file."""
        path = Path(path)
        if not path.is_file():
            raise ConfigError(f"no model configuration at {path}")
        text = path.read_text(encoding="utf-8")
        try:
            values = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
        except (json.JSONDecodeError, yaml.YAMLError) as error:
            raise ConfigError(f"{path} cannot be parsed: {error}") from error
        try:
            return cls.from_dict(values)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """Plain data, the inverse of :meth:`from_dict`."""
        return json.loads(json.dumps(dataclasses.asdict(self)))


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def _build(cls: type, values: Any, where: str) -> Any:
    """Fill a dataclass from a mapping, section by section."""
    if not isinstance(values, dict):
        raise ConfigError(f"{where or 'the configuration'} must be a mapping, got {type(values).__name__}")
    fields = {f.name: f for f in dataclasses.fields(cls)}
    unknown = sorted(set(values) - set(fields))
    _require(not unknown, f"unknown field {where}{unknown[0] if unknown else ''}; known: {', '.join(fields)}")
    missing = [
        name
        for name, f in fields.items()
        if name not in values and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    _require(not missing, f"missing field {where}{missing[0] if missing else ''}")
    hints = get_type_hints(cls)
    return cls(**{name: _convert(hints[name], value, f"{where}{name}") for name, value in values.items()})


_SCALARS: dict[Any, tuple[type, ...]] = {int: (int,), float: (int, float), str: (str,), bool: (bool,)}


def _convert(hint: Any, value: Any, where: str) -> Any:
    """Check one value against its annotation: a section, a scalar, an optional scalar or a tuple of scalars."""
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, f"{where}.")
    arguments = getattr(hint, "__args__", ())
    if type(None) in arguments:
        if value is None:
            return None
        hint = next(a for a in arguments if a is not type(None))
    elif arguments:
        _require(isinstance(value, list | tuple), f"{where} must be a list, got {value!r}")
        return tuple(_convert(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    right_type = isinstance(value, _SCALARS[hint]) and (hint is bool) == isinstance(value, bool)
    _require(right_type, f"{where} must be of type {hint.__name__}, got {value!r}")
    return float(value) if hint is float else value
