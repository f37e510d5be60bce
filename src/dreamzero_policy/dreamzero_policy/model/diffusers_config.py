"""The model configuration of four component folders that diffusers and transformers wrote, and back.

Such folders describe every network and nothing around them: the canvas, the chunk and the sampler are not there. Where
a folder does not say it, the released DreamZero's values are taken and named in the answer.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dreamzero_policy.model.conditioning import BYTE_VOCABULARY
from dreamzero_policy.model.config import (
    AutoencoderConfig,
    GeometryConfig,
    ImageEncoderConfig,
    ModelConfig,
    TextEncoderConfig,
    TransformerConfig,
)
from dreamzero_policy.model.release_config import NAMED, SAMPLER
from dreamzero_policy.model.weights import CheckpointError

CANVAS = {8: (352, 640), 16: (160, 320)}  # height and width [px] of the released models, by pixels per latent position
TEXT_LENGTH = 512
CHUNK = {"frames_per_chunk": 2, "actions_per_chunk": 24, "action_dim": 32, "state_dim": 64, "control_hidden_dim": 1024}


def config_of_folders(path: Path) -> tuple[ModelConfig, list[str]]:
    """The configuration, and a line for every value that was assumed. Raises :class:`CheckpointError`."""
    transformer, vae, text, image = (
        _read(path / name / "config.json") for name in ("transformer", "vae", "text_encoder", "image_encoder")
    )
    image = image.get("vision_config", image)
    try:
        return _build(transformer, vae, text, image)
    except KeyError as error:
        raise CheckpointError(f"{path}: a component's config.json lacks {error.args[0]}") from error


def _build(
    transformer: dict[str, Any], vae: dict[str, Any], text: dict[str, Any], image: dict[str, Any]
) -> tuple[ModelConfig, list[str]]:
    autoencoder = AutoencoderConfig(
        base_dim=vae["base_dim"],
        decoder_base_dim=vae.get("decoder_base_dim"),
        latent_channels=vae["z_dim"],
        dim_mult=tuple(vae["dim_mult"]),
        num_res_blocks=vae["num_res_blocks"],
        temporal_downsample=tuple(vae["temperal_downsample"]),
        patch_size=vae.get("patch_size"),
        residual=vae.get("is_residual", False),
        latents_mean=tuple(vae["latents_mean"]),
        latents_std=tuple(vae["latents_std"]),
    )
    if autoencoder.spatial_factor not in CANVAS:
        raise CheckpointError(
            f"a diffusers layout does not say its canvas, and none is known for {autoencoder.spatial_factor} px per "
            "latent position; give the model configuration (a file as in config/models)"
        )
    canvas = CANVAS[autoencoder.spatial_factor]
    chunk = {name: transformer.get(name, value) for name, value in CHUNK.items()}
    assumed = [name for name in CHUNK if name not in transformer]
    notes = [f"canvas {canvas[0]} x {canvas[1]} px, text of {TEXT_LENGTH} tokens and the sampler are assumed"]
    notes += [f"{', '.join(f'{name} {CHUNK[name]}' for name in assumed)} are assumed"] if assumed else []
    heads, width = transformer["num_attention_heads"], transformer["attention_head_dim"]
    conditioned = transformer["in_channels"] != transformer["out_channels"]
    kind = "i2v" if conditioned else "ti2v"
    size = kind, heads * width, transformer["num_layers"]
    config = ModelConfig(
        variant=NAMED.get(size, f"{kind}_{heads * width}x{transformer['num_layers']}"),
        geometry=GeometryConfig(
            canvas_height=canvas[0],
            canvas_width=canvas[1],
            frames_per_chunk=chunk["frames_per_chunk"],
            actions_per_chunk=chunk["actions_per_chunk"],
            max_action_dim=chunk["action_dim"],
            max_state_dim=chunk["state_dim"],
        ),
        transformer=TransformerConfig(
            num_layers=transformer["num_layers"],
            num_attention_heads=heads,
            attention_head_dim=width,
            ffn_dim=transformer["ffn_dim"],
            freq_dim=transformer["freq_dim"],
            control_hidden_dim=chunk["control_hidden_dim"],
            image_condition=conditioned,
        ),
        autoencoder=autoencoder,
        text_encoder=TextEncoderConfig(
            tokenizer="bytes" if text["vocab_size"] == BYTE_VOCABULARY else "files",
            vocab_size=text["vocab_size"],
            text_length=TEXT_LENGTH,
            dim=text["d_model"],
            num_layers=text["num_layers"],
            num_heads=text["num_heads"],
            head_dim=text["d_kv"],
            ffn_dim=text["d_ff"],
        ),
        image_encoder=ImageEncoderConfig(
            image_size=image["image_size"],
            patch_size=image["patch_size"],
            dim=image["hidden_size"],
            num_layers=image["num_hidden_layers"],
            num_heads=image["num_attention_heads"],
            ffn_dim=image["intermediate_size"],
        ),
        sampler=SAMPLER,
    )
    return config, notes


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise CheckpointError(f"{path} cannot be parsed: {error}") from error
