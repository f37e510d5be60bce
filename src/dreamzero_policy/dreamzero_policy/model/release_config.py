"""The configuration of a released checkpoint, read into ours.

A release says what it is in two files: ``config.json`` (sizes of the networks) and ``experiment_cfg/conf.yaml`` (the
training run: camera views, embodiments, what was saved). Both leave out what the original code has as a default; those
defaults are here, beside the sampler's constants, which the original keeps in code only. Source of all figures:
dreamzero0/dreamzero at ab790c1.
"""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

from dreamzero_policy.model.config import (
    CONDITION_MASK_CHANNELS,
    TEMPORAL_FACTOR,
    AutoencoderConfig,
    ConfigError,
    GeometryConfig,
    ImageEncoderConfig,
    ModelConfig,
    SamplerConfig,
    TextEncoderConfig,
    TransformerConfig,
)
from dreamzero_policy.model.weights import CheckpointError

CONFIG_FILE = "config.json"
EXPERIMENT = "experiment_cfg"
CONF_FILE = f"{EXPERIMENT}/conf.yaml"
METADATA_FILE = f"{EXPERIMENT}/metadata.json"

# Defaults of the original's network classes.
TRANSFORMER = {
    "model_type": "t2v",
    "freq_dim": 256,
    "text_dim": 4096,
    "text_len": 512,
    "action_dim": 32,
    "max_state_dim": 64,
    "hidden_size": 1024,
    "num_frame_per_block": 1,
    "num_action_per_block": 32,
    "num_state_per_block": 1,
    "concat_first_frame_latent": True,
    "eps": 1e-6,
}
TEXT = {"vocab": 256384, "dim": 4096, "dim_attn": 4096, "dim_ffn": 10240, "num_heads": 64, "num_layers": 24}
IMAGE = {
    "image_size": 224,
    "patch_size": 14,
    "vision_dim": 1280,
    "vision_mlp_ratio": 4,
    "vision_heads": 16,
    "vision_layers": 32,
}
_STOCK_AUTOENCODER = inspect.signature(AutoencoderKLWan.__init__).parameters
WAN_2_1 = AutoencoderConfig(
    base_dim=96,
    latents_mean=tuple(_STOCK_AUTOENCODER["latents_mean"].default),
    latents_std=tuple(_STOCK_AUTOENCODER["latents_std"].default),
)
WAN_2_2 = AutoencoderConfig(
    base_dim=160,
    decoder_base_dim=256,
    latent_channels=48,
    patch_size=2,
    residual=True,
    latents_mean=(
        *(-0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557, -0.1382, 0.0542, 0.2813, 0.0891),
        *(0.1570, -0.0098, 0.0375, -0.1825, -0.2246, -0.1207, -0.0698, 0.5109, 0.2665, -0.2108, -0.2158, 0.2502),
        *(-0.2055, -0.0322, 0.1109, 0.1567, -0.0729, 0.0899, -0.2799, -0.1230, -0.0313, -0.1649, 0.0117, 0.0723),
        *(-0.2839, -0.2083, -0.0520, 0.3748, 0.0152, 0.1957, 0.1433, -0.2944, 0.3573, -0.0548, -0.1681, -0.0667),
    ),
    latents_std=(
        *(0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.4990, 0.4818, 0.5013, 0.8158, 1.0344, 0.5894, 1.0901),
        *(0.6885, 0.6165, 0.8454, 0.4978, 0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659),
        *(0.7069, 0.5338, 0.4889, 0.4917, 0.4069, 0.4999, 0.6866, 0.4093, 0.5709, 0.6065, 0.6415, 0.4944),
        *(0.5726, 1.2042, 0.5458, 1.6887, 0.3971, 1.0600, 0.3943, 0.5537, 0.5444, 0.4089, 0.7468, 0.7744),
    ),
)
# Constants of the original's policy head. The negative prompt is that of Wan.
SAMPLER = SamplerConfig(
    negative_prompt=(
        "Vibrant colors, overexposed, static, blurry details, text, subtitles, style, artwork, painting, image, still, "
        "grayscale, dull, worst quality, low quality, JPEG artifacts, ugly, mutilated, extra fingers, bad hands, "
        "bad face, deformed, disfigured, mutated limbs, fused fingers, stagnant image, cluttered background, "
        "three legs, many people in the background, walking backwards."
    ),
    vae_mode="release",
)
OWN = "dreamzero"  # section of a config.json written here: the whole model, where the release's fields cannot say it
NAMED = {("i2v", 5120, 40): "wan2_1_14b", ("ti2v", 3072, 30): "wan2_2_5b"}


@dataclass(frozen=True)
class Adapters:
    """Low-rank adapters of a checkpoint that was trained with them: a weight becomes W + ``scale`` B A.

    ``only``: the checkpoint holds nothing but what was trained. ``base``: the path of the base as the training run
    knew it, if it says so.
    """

    scale: float
    only: bool
    base: str | None


@dataclass(frozen=True)
class Release:
    """What the configuration files of a release say."""

    config: ModelConfig
    adapters: Adapters
    conf: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    folder: Path | None = None


def is_release(document: dict[str, Any]) -> bool:
    """Whether a ``config.json`` is that of a release."""
    return "action_head_cfg" in document


def read_release(folder: Path) -> Release:
    """Read the configuration files of a release. Raises :class:`CheckpointError` naming the file and the field."""
    document = _read(folder / CONFIG_FILE)
    conf = _read(folder / CONF_FILE)
    head = _section(document, "action_head_cfg", folder / CONFIG_FILE)
    head = head.get("config", head)
    metadata = _read(folder / METADATA_FILE) if (folder / METADATA_FILE).is_file() else {}
    try:
        config = model_config(head, conf) if OWN not in document else ModelConfig.from_dict(document[OWN])
    except KeyError as error:
        raise CheckpointError(f"{folder / CONFIG_FILE}: {error.args[0]} is missing") from error
    except ConfigError as error:
        raise CheckpointError(f"{folder / CONFIG_FILE}: {error}") from error
    rank = head.get("lora_rank", 4)
    adapters = Adapters(
        scale=head.get("lora_alpha", 4) / rank,
        only=bool(conf.get("save_lora_only", False)),
        base=conf.get("pretrained_model_path"),
    )
    return Release(config, adapters, conf, metadata, folder)


def model_config(head: dict[str, Any], conf: dict[str, Any]) -> ModelConfig:
    """The model that an action head's configuration and a ``conf.yaml`` describe. Raises ConfigError, KeyError."""
    dit = TRANSFORMER | head["diffusion_model_cfg"]
    vae, text, image = (
        _own(head.get(f"{name}_cfg")) for name in ("vae", "text_encoder", "image_encoder")
    )  # absent: all defaults
    text, image = TEXT | text, IMAGE | image
    _require_equal("text_encoder_cfg.dim", text["dim"], "diffusion_model_cfg.text_dim", dit["text_dim"])
    clip_dim = dit.get("clip_dim", IMAGE["vision_dim"])
    _require_equal("image_encoder_cfg.vision_dim", image["vision_dim"], "diffusion_model_cfg.clip_dim", clip_dim)
    _require_equal("diffusion_model_cfg.num_state_per_block", dit["num_state_per_block"], "the supported number", 1)
    _require_equal("diffusion_model_cfg.eps", dit["eps"], "the supported value", 1e-6)
    autoencoder = _autoencoder(head.get("vae_cfg") or {}, vae)
    _require_equal("diffusion_model_cfg.out_dim", dit["out_dim"], "latent channels", autoencoder.latent_channels)
    height, width = _canvas(head, conf)
    config = ModelConfig(
        variant=NAMED.get(
            (dit["model_type"], dit["dim"], dit["num_layers"]), f"{dit['model_type']}_{dit['dim']}x{dit['num_layers']}"
        ),
        geometry=GeometryConfig(
            canvas_height=height,
            canvas_width=width,
            frames_per_chunk=dit["num_frame_per_block"],
            chunks_per_window=_chunks_per_window(head, dit),
            actions_per_chunk=dit["num_action_per_block"],
            max_action_dim=dit["action_dim"],
            max_state_dim=dit["max_state_dim"],
        ),
        transformer=TransformerConfig(
            num_layers=dit["num_layers"],
            num_attention_heads=dit["num_heads"],
            attention_head_dim=dit["dim"] // dit["num_heads"],
            ffn_dim=dit["ffn_dim"],
            freq_dim=dit["freq_dim"],
            control_hidden_dim=dit["hidden_size"],
            image_condition=_image_condition(dit),
        ),
        autoencoder=autoencoder,
        text_encoder=TextEncoderConfig(
            tokenizer="files",
            vocab_size=text["vocab"],
            text_length=dit["text_len"],
            dim=text["dim"],
            num_layers=text["num_layers"],
            num_heads=text["num_heads"],
            head_dim=text["dim_attn"] // text["num_heads"],
            ffn_dim=text["dim_ffn"],
        ),
        image_encoder=ImageEncoderConfig(
            image_size=image["image_size"],
            patch_size=image["patch_size"],
            dim=image["vision_dim"],
            num_layers=image["vision_layers"],
            num_heads=image["vision_heads"],
            ffn_dim=int(image["vision_dim"] * image["vision_mlp_ratio"]),
        ),
        sampler=_sampler(head),
    )
    if "frame_seqlen" in dit:
        _require_equal(
            f"tokens of a {height}x{width} px canvas",
            config.tokens_per_frame,
            "diffusion_model_cfg.frame_seqlen",
            dit["frame_seqlen"],
        )
    return config


def _image_condition(dit: dict[str, Any]) -> bool:
    """Whether latents carry the image condition, read off the number of input channels."""
    latents = dit["out_dim"]
    with_condition = 2 * latents + CONDITION_MASK_CHANNELS
    if dit["in_dim"] not in (latents, with_condition):
        raise ConfigError(
            f"diffusion_model_cfg.in_dim is {dit['in_dim']}; {latents} latent channels make {latents} without and "
            f"{with_condition} with an image condition"
        )
    return dit["in_dim"] == with_condition


def _chunks_per_window(head: dict[str, Any], dit: dict[str, Any]) -> int:
    """From ``max_chunk_size``; where it is -1 (no limit), from the number of frames a window was trained with."""
    chunks = dit.get("max_chunk_size", -1)
    if chunks > 0:
        return chunks
    return (head["num_frames"] - 1) // TEMPORAL_FACTOR // dit["num_frame_per_block"]


def _autoencoder(section: dict[str, Any], sizes: dict[str, Any]) -> AutoencoderConfig:
    base = WAN_2_2 if str(section.get("_target_", "")).endswith("VAE38") else WAN_2_1
    values = {
        "base_dim": sizes.get("dim", base.base_dim),
        "latent_channels": sizes.get("z_dim", base.latent_channels),
        "decoder_base_dim": sizes.get("dec_dim", base.decoder_base_dim),
    }
    return AutoencoderConfig(**{**_fields(base), **values})


def _fields(config: AutoencoderConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in config.__dataclass_fields__}


def _canvas(head: dict[str, Any], conf: dict[str, Any]) -> tuple[int, int]:
    """Height and width of the picture the autoencoder sees: what it is resized to, else two rows of two views."""
    target = head.get("target_video_height"), head.get("target_video_width")
    if None not in target:
        return target
    try:
        view = conf["image_resolution_height"], conf["image_resolution_width"]
    except KeyError as error:
        raise ConfigError(f"{CONF_FILE} has no {error.args[0]}, and no target_video_height is given") from error
    return (2 * view[0], 2 * view[1]) if conf.get("num_views", 3) > 1 else view


def _sampler(head: dict[str, Any]) -> SamplerConfig:
    if not head.get("decouple_inference_noise", False):
        return SAMPLER
    values = {name: getattr(SAMPLER, name) for name in SAMPLER.__dataclass_fields__}
    return SamplerConfig(**{**values, "video_final_noise": head.get("video_inference_final_noise", 0.8)})


def _require_equal(name: str, value: Any, other_name: str, other: Any) -> None:
    if value != other:
        raise ConfigError(f"{name} is {value}, {other_name} is {other}")


def _own(section: dict[str, Any] | None) -> dict[str, Any]:
    """A section without its instructions to the original's object builder."""
    return {key: value for key, value in (section or {}).items() if not key.startswith("_")}


def _section(document: dict[str, Any], name: str, path: Path) -> dict[str, Any]:
    if not isinstance(document.get(name), dict):
        raise CheckpointError(f"{path}: {name} is missing or not a table")
    return document[name]


def _read(path: Path) -> dict[str, Any]:
    """A YAML or JSON file as plain data."""
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; a release needs {CONFIG_FILE} and {CONF_FILE}")
    text = path.read_text(encoding="utf-8")
    try:
        document = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (json.JSONDecodeError, yaml.YAMLError) as error:
        raise CheckpointError(f"{path} cannot be parsed: {error}") from error
    if not isinstance(document, dict):
        raise CheckpointError(f"{path} is not a table")
    return document
