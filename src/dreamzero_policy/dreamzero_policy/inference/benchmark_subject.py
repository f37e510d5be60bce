"""A transformer with inputs and a filled window: what a benchmark calls.

Weights need not be trained; times do not depend on them.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dreamzero_policy.inference.denoising import denoise_chunk, evaluation_rule
from dreamzero_policy.inference.without_cache import denoise_without_cache
from dreamzero_policy.model.blocks import KeyValue
from dreamzero_policy.model.cache import KVCache
from dreamzero_policy.model.config import ModelConfig
from dreamzero_policy.model.transformer import Context, WorldActionTransformer

SHIFT = 5.0
EVALUATIONS = 8  # of 16 steps
TIME = 500.0  # of the single calls; the cost is the same at all times


def random_transformer(config: ModelConfig, dtype: torch.dtype, seed: int = 0) -> WorldActionTransformer:
    """A transformer with random weights, none of them zero, ready for inference."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = WorldActionTransformer.from_model_config(config)
        transformer.initialise_weights()
        torch.nn.init.xavier_uniform_(transformer.proj_out.weight)
    return transformer.to(dtype).eval().requires_grad_(False)


@dataclass(frozen=True)
class Subject:
    """A transformer with a filled window: one cache for every length of the past that a chunk may have."""

    transformer: Any
    config: ModelConfig
    inputs: dict[str, Tensor | None]
    context: Context
    caches: dict[int, KVCache]

    @classmethod
    def prepared(cls, transformer: Any, config: ModelConfig, dtype: torch.dtype, seed: int = 0) -> Subject:
        """Random inputs by the seed, the window observed."""
        inputs = _random_inputs(config, dtype, transformer.patch_embedding.weight.device, seed)
        context = transformer.context(inputs["text"], inputs["image"])
        subject = cls(transformer, config, inputs, context, {})
        cache = subject.empty_cache()
        for first, count in subject.blocks:
            subject.observe(cache, first, count)
            subject.caches[first + count] = cache.clone()
        return subject

    def cast(self, dtype: torch.dtype) -> Subject:
        """The same in another dtype, weights and memory rounded."""

        def rounded(layers: tuple[KeyValue, ...]) -> tuple[KeyValue, ...]:
            return tuple(KeyValue(kv.key.to(dtype), kv.value.to(dtype)) for kv in layers)

        subject = Subject(
            copy.deepcopy(self.transformer).to(dtype),
            self.config,
            {name: None if tensor is None else tensor.to(dtype) for name, tensor in self.inputs.items()},
            Context(rounded(self.context.text), rounded(self.context.image)),
            {},
        )
        for frames, cache in self.caches.items():
            copied = subject.caches[frames] = subject.empty_cache()
            copied.keys.copy_(cache.keys)
            copied.values.copy_(cache.values)
            copied.advance(cache.length)
        return subject

    @property
    def blocks(self) -> list[tuple[int, int]]:
        """First frame and number of frames of every observation before a window's last chunk."""
        size, chunks = self.config.geometry.frames_per_chunk, self.config.geometry.chunks_per_window
        return [(0, 1), *((1 + i * size, size) for i in range(chunks - 1))]

    def empty_cache(self) -> KVCache:
        config = self.config
        return self.transformer.empty_cache(
            batch=1,
            frames=config.latent_frames_per_window - config.geometry.frames_per_chunk,
            height=config.latent_height,
            width=config.latent_width,
        )

    def observe(self, cache: KVCache, first: int, count: int) -> None:
        latents, condition = (self._frames(name, first, count) for name in ("latents", "condition"))
        self.transformer.observe(cache, self.context, latents, condition, first_frame=first)

    def denoise(self, past: int) -> tuple[Tensor, Tensor]:
        """One velocity behind ``past`` cached frames."""
        return self.transformer.denoise(
            self.caches[past],
            self.context,
            self.inputs["noisy"],
            self._frames("condition", past, self.config.geometry.frames_per_chunk),
            self.inputs["action"],
            self.inputs["state"],
            first_frame=past,
            video_time=TIME,
            action_time=TIME,
            state_attention=self.config.sampler.state_attention,
        )

    def denoise_without_cache(self, past: int) -> tuple[Tensor, Tensor]:
        """The same as :meth:`denoise`, the past computed anew."""
        inputs = self.inputs
        return denoise_without_cache(
            self.transformer,
            self.context,
            inputs["latents"][:, :, :past],
            inputs["noisy"],
            self._frames("condition", 0, past + self.config.geometry.frames_per_chunk),
            inputs["action"],
            inputs["state"],
            time=TIME,
            state_attention=self.config.sampler.state_attention,
        )

    def chunk(self, past: int, steps: int) -> object:
        """A whole chunk, solvers included."""
        inputs = self.inputs
        return denoise_chunk(
            self.transformer,
            self.caches[past],
            self.context,
            condition=self._frames("condition", past, self.config.geometry.frames_per_chunk),
            state=inputs["state"],
            video=inputs["noisy"].float(),
            action=inputs["action"].float(),
            first_frame=past,
            steps=steps,
            evaluated=evaluation_rule(steps, EVALUATIONS),
            cfg_scale=1.0,
            shift=SHIFT,
            video_final_noise=None,
            state_attention=self.config.sampler.state_attention,
        )

    def _frames(self, name: str, first: int, count: int) -> Tensor | None:
        tensor = self.inputs[name]
        return None if tensor is None else tensor[:, :, first : first + count]


def _random_inputs(
    config: ModelConfig, dtype: torch.dtype, device: torch.device, seed: int
) -> dict[str, Tensor | None]:
    generator = torch.Generator().manual_seed(seed)
    geometry, channels = config.geometry, config.autoencoder.latent_channels
    frames, size = config.latent_frames_per_window, (config.latent_height, config.latent_width)
    shapes: dict[str, Sequence[int]] = {
        "latents": (1, channels, frames, *size),
        "noisy": (1, channels, geometry.frames_per_chunk, *size),
        "action": (1, geometry.actions_per_chunk, geometry.max_action_dim),
        "state": (1, 1, geometry.max_state_dim),
        "text": (1, config.text_encoder.text_length, config.text_encoder.dim),
        "image": (1, config.image_encoder.tokens, config.image_encoder.dim),
        "condition": (1, config.transformer_in_channels - channels, frames, *size),
    }
    inputs = {name: torch.randn(shape, generator=generator).to(device, dtype) for name, shape in shapes.items()}
    return inputs if config.transformer.image_condition else {**inputs, "condition": None}
