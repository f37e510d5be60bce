"""Floating-point operations of the verbs, counted from the sizes: two for each multiply-add of a matrix product.

Norms, activations and softmax are left out, as usual: under one per cent of the count, and more than that of the time.
"""

from __future__ import annotations

import math

from dreamzero_policy.model.config import PATCH_SIZE, ModelConfig


def denoise_flops(config: ModelConfig, cached_frames: int) -> int:
    """One velocity of one chunk, one row, behind ``cached_frames`` latent frames; the state attends (``release``)."""
    geometry, transformer, dim = config.geometry, config.transformer, config.dim
    video, actions = geometry.frames_per_chunk * config.tokens_per_frame, geometry.actions_per_chunk
    tokens = video + actions + 1
    keys = cached_frames * config.tokens_per_frame + tokens
    patch, hidden = math.prod(PATCH_SIZE), transformer.control_hidden_dim
    action_in = geometry.max_action_dim * dim + 3 * dim * dim
    action_out = dim * hidden + hidden * geometry.max_action_dim
    state_in = geometry.max_state_dim * hidden + hidden * dim
    video_out = dim * patch * config.autoencoder.latent_channels
    ends = video * (_patch_in(config) + video_out) + actions * (action_in + action_out) + state_in
    return transformer.num_layers * _layer(config, tokens, keys) + 2 * ends + _time(config)


def observe_flops(config: ModelConfig, cached_frames: int, frames: int) -> int:
    """Appending ``frames`` latent frames, one row. Of the last layer only keys and values are needed."""
    tokens = frames * config.tokens_per_frame
    keys = cached_frames * config.tokens_per_frame + tokens
    layers = (config.transformer.num_layers - 1) * _layer(config, tokens, keys) + 2 * tokens * 2 * config.dim**2
    return layers + 2 * tokens * _patch_in(config) + _time(config)


def _layer(config: ModelConfig, tokens: int, keys: int) -> int:
    """Four projections and attention over the keys, two projections and attention over the context, feed-forward."""
    dim, context = config.dim, config.text_encoder.text_length + config.image_encoder.tokens
    linear = tokens * (6 * dim * dim + 2 * dim * config.transformer.ffn_dim)
    attention = 2 * tokens * (keys + context) * dim
    return 2 * (linear + attention)


def _patch_in(config: ModelConfig) -> int:
    return config.transformer_in_channels * math.prod(PATCH_SIZE) * config.dim


def _time(config: ModelConfig) -> int:
    """One distinct time."""
    return 2 * (config.transformer.freq_dim * config.dim + 7 * config.dim**2)
