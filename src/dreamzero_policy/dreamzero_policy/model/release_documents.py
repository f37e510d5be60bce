"""The configuration files of a release, written for a model of ours.

The inverse of release_config.py. What a release's fields cannot say (another autoencoder, another tokenizer) goes into
a section of our own, so that every model survives the way there and back.
"""

from __future__ import annotations

from typing import Any

from dreamzero_policy.model.config import ConfigError, ModelConfig
from dreamzero_policy.model.release_config import OWN, model_config


def release_document(config: ModelConfig) -> dict[str, Any]:
    """The ``config.json`` of a release with this model."""
    geometry, transformer, text, image = config.geometry, config.transformer, config.text_encoder, config.image_encoder
    modules = "groot.vla.model.dreamzero"
    head = {
        "num_frames": 1 + geometry.chunks_per_window * config.raw_frames_per_chunk,
        "num_frame_per_block": geometry.frames_per_chunk,
        "train_architecture": "full",
        "max_state_dim": geometry.max_state_dim,
        "max_action_dim": geometry.max_action_dim,
        "action_dim": geometry.max_action_dim,
        "action_horizon": geometry.actions_per_chunk,
        "skip_component_loading": True,
        "target_video_height": geometry.canvas_height,
        "target_video_width": geometry.canvas_width,
        "diffusion_model_cfg": {
            "_target_": f"{modules}.modules.wan_video_dit_action_casual_chunk.CausalWanModel",
            "_convert_": "object",
            "model_type": "i2v" if transformer.image_condition else "ti2v",
            "concat_first_frame_latent": transformer.image_condition,
            "frame_seqlen": config.tokens_per_frame,
            "dim": config.dim,
            "in_dim": config.transformer_in_channels,
            "out_dim": config.autoencoder.latent_channels,
            "ffn_dim": transformer.ffn_dim,
            "freq_dim": transformer.freq_dim,
            "num_heads": transformer.num_attention_heads,
            "num_layers": transformer.num_layers,
            "max_chunk_size": geometry.chunks_per_window,
            "num_frame_per_block": geometry.frames_per_chunk,
            "num_action_per_block": geometry.actions_per_chunk,
            "num_state_per_block": 1,
            "text_len": text.text_length,
            "text_dim": text.dim,
            "action_dim": geometry.max_action_dim,
            "max_state_dim": geometry.max_state_dim,
            "hidden_size": transformer.control_hidden_dim,
            "clip_dim": image.dim,
        },
        "text_encoder_cfg": {
            "_target_": f"{modules}.modules.wan_video_text_encoder.WanTextEncoder",
            "_convert_": "object",
            "vocab": text.vocab_size,
            "dim": text.dim,
            "dim_attn": text.num_heads * text.head_dim,
            "dim_ffn": text.ffn_dim,
            "num_heads": text.num_heads,
            "num_layers": text.num_layers,
        },
        "image_encoder_cfg": {
            "_target_": f"{modules}.modules.wan_video_image_encoder.WanImageEncoder",
            "_convert_": "object",
            "image_size": image.image_size,
            "patch_size": image.patch_size,
            "vision_dim": image.dim,
            "vision_mlp_ratio": image.ffn_dim / image.dim,
            "vision_heads": image.num_heads,
            "vision_layers": image.num_layers,
        },
        "vae_cfg": {
            "_target_": f"{modules}.modules.wan_video_vae.WanVideoVAE{'38' if config.autoencoder.residual else ''}",
            "_convert_": "object",
            "dim": config.autoencoder.base_dim,
            "z_dim": config.autoencoder.latent_channels,
        },
    }
    document = {
        "architectures": ["VLA"],
        "model_type": "vla",
        "action_dim": geometry.max_action_dim,
        "action_horizon": geometry.actions_per_chunk,
        "backbone_cfg": {"_target_": f"{modules}.backbone.identity.IdentityBackbone"},
        "action_head_cfg": {
            "_target_": f"{modules}.action_head.wan_flow_matching_action_tf.WANPolicyHead",
            "_convert_": "object",
            "config": head,
        },
    }
    try:
        sayable = model_config(head, release_conf(config)) == config
    except ConfigError:
        sayable = False
    return document if sayable else {**document, OWN: config.to_dict()}


def release_conf(config: ModelConfig) -> dict[str, Any]:
    """The sizes that a release's ``conf.yaml`` holds. The rest of a training run is not known here."""
    geometry = config.geometry
    return {
        "model": {"_target_": "groot.vla.model.dreamzero.base_vla.VLA", "_convert_": "object"},
        "num_frames": 1 + geometry.chunks_per_window * config.raw_frames_per_chunk,
        "action_horizon": geometry.actions_per_chunk,
        "num_views": 3,
        "num_frame_per_block": geometry.frames_per_chunk,
        "num_action_per_block": geometry.actions_per_chunk,
        "num_state_per_block": 1,
        "max_chunk_size": geometry.chunks_per_window,
        "frame_seqlen": config.tokens_per_frame,
        "image_resolution_width": geometry.canvas_width // 2,
        "image_resolution_height": geometry.canvas_height // 2,
        "max_state_dim": geometry.max_state_dim,
        "max_action_dim": geometry.max_action_dim,
        "max_length": config.text_encoder.text_length,
        "save_lora_only": False,
        "train_architecture": "full",
    }


def release_metadata(contract: dict[str, Any], statistics: dict[str, Any]) -> dict[str, Any]:
    """The ``metadata.json`` of one embodiment, from plain contract and statistics; empty without them."""
    if not contract:
        return {}
    model = contract["model"]
    tables = {kind: statistics[kind] for kind in ("state", "action")}
    shapes = {
        kind: {
            group["key"]: {"shape": [len(group["joints"])], "absolute": not group["relative"]} for group in model[kind]
        }
        for kind in tables
    }
    video = {camera: {"channels": 3} for camera in model["cameras"]}
    tag = model["embodiment"]
    return {tag: {"statistics": tables, "modalities": {"video": video, **shapes}, "embodiment_tag": tag}}
