"""The world-action transformer: one network that predicts the velocity of a video and of actions together.

Blocks, embedders and weight names are diffusers' Wan (``blocks.py``); three small modules bring actions and state in
and actions out (``control.py``). Decisions:

* three verbs. :meth:`WorldActionTransformer.forward` trains on a whole window (teacher forcing);
  :meth:`~WorldActionTransformer.observe` appends real frames to a cache by a pass at t = 0;
  :meth:`~WorldActionTransformer.denoise` gives the velocity of one chunk and only reads the cache;
* modules keep weights only. The past (:class:`~.cache.KVCache`) and the conditioning (:class:`Context`) are arguments;
* the conditioning's keys and values do not depend on the noise, so they are computed by
  :meth:`~WorldActionTransformer.encode_text` (once per prompt) and
  :meth:`~WorldActionTransformer.encode_image` (once per window) and handed to the verbs;
* a pass carries the few distinct times of its tokens, not one per token (:class:`~.blocks.Times`);
* under guidance the branches differ in their text alone. Latents, action and state come with one row, the text with
  several; the rows part at the first cross-attention and everything before it is computed once;
* norms, scales, shifts and the time embedding are float32 whatever the rest is cast to, by ``.to`` as well.

* a narrow network may be made to predict the clean sample x0 in place of the velocity (``predicts``), which is then
  (x_t − x0) / σ. A velocity contains the noise, and whoever gives it has to carry every number of the noise through all
  layers: 192 to a video token of the tiny variant, whose width is 256 (Li and He, arXiv 2511.13720).

Convention of the flow: t = 1000 is noise, t = 0 is data, the velocity is noise − data.

Letters: B batch, F or f latent frames, C latent channels, H W latent rows and columns, L tokens, A actions, S states,
N context tokens, U distinct times, D width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.attention import AttentionMixin
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.normalization import FP32LayerNorm
from diffusers.models.transformers.transformer_wan import WanTimeTextImageEmbedding
from torch import Tensor, nn

from dreamzero_policy.model.blocks import (
    KeyValue,
    Reach,
    Times,
    WorldActionBlock,
    present_only,
    with_unit_factors,
)
from dreamzero_policy.model.cache import KVCache
from dreamzero_policy.model.config import PATCH_SIZE, STATE_ATTENTION, ModelConfig
from dreamzero_policy.model.control import ActionEncoder, ControlProjector, EmbodimentLinear
from dreamzero_policy.model.flow import TRAIN_LEVELS
from dreamzero_policy.model.tokens import CLEAN, TokenLayout, Tokens, visibility

PREDICTIONS = ("velocity", "sample")
LEAST_SIGMA = 0.05  # by which a difference is divided; below it nothing is left to decide


@dataclass(frozen=True)
class Context:
    """What the cross-attention of every layer sees: text, and image where the model has one.

    One entry per layer. Text has one row per branch of guidance (or per sample); image may have one row for all.
    """

    text: tuple[KeyValue, ...]
    image: tuple[KeyValue, ...] | None

    def layer(self, index: int) -> tuple[KeyValue, KeyValue | None]:
        """What one layer sees."""
        return self.text[index], None if self.image is None else self.image[index]


@dataclass(frozen=True)
class TimeEmbedding:
    """``embedded`` [B or 1, U, D] is for the head, ``projected`` [B or 1, U, 6, D] for the blocks; float32."""

    embedded: Tensor
    projected: Tensor


def time_sinusoid(times: Tensor, dim: int) -> Tensor:
    """[…] to […, dim]: cosine half, then sine half, in float64 as the released weights were trained with."""
    angle = times[..., None].to(torch.float64) * _frequencies(dim // 2, times.device)
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


@lru_cache(maxsize=16)
@torch.inference_mode(False)
def _frequencies(count: int, device: torch.device) -> Tensor:
    """[count] float64, from 1 down to almost 1 / 10000."""
    return 10000.0 ** -(torch.arange(count, dtype=torch.float64, device=device) / count)


class WorldActionTransformer(ModelMixin, ConfigMixin, PeftAdapterMixin, AttentionMixin):
    """Velocities of video latents and actions from noisy ones, the clean past, text, image and state."""

    _supports_gradient_checkpointing = True
    _no_split_modules = ("WorldActionBlock",)
    _repeated_blocks = ("WorldActionBlock",)

    # Parts that stay float32 when the rest is cast, whoever casts. Not under diffusers' own name for it: with
    # `_keep_in_fp32_modules`, `from_pretrained` needs the accelerate package, and `.to` ignores it.
    keep_in_float32 = ("time_embedder", "scale_shift_table", "norm1", "norm2", "norm3")

    @register_to_config
    def __init__(
        self,
        num_layers: int = 40,
        num_attention_heads: int = 40,
        attention_head_dim: int = 128,
        ffn_dim: int = 13824,
        in_channels: int = 36,
        out_channels: int = 16,
        text_dim: int = 4096,
        image_dim: int | None = 1280,
        freq_dim: int = 256,
        action_dim: int = 32,
        state_dim: int = 64,
        control_hidden_dim: int = 1024,
        frames_per_chunk: int = 2,
        actions_per_chunk: int = 24,
        eps: float = 1e-6,
        predicts: str = "velocity",
    ) -> None:
        if predicts not in PREDICTIONS:
            raise ValueError(f"predicts is {predicts!r}, expected one of {PREDICTIONS}")
        super().__init__()
        dim = num_attention_heads * attention_head_dim
        self.layout = TokenLayout(frames_per_chunk, actions_per_chunk, attention_head_dim)

        self.patch_embedding = nn.Conv3d(in_channels, dim, kernel_size=PATCH_SIZE, stride=PATCH_SIZE)
        self.condition_embedder = WanTimeTextImageEmbedding(
            dim=dim,
            time_freq_dim=freq_dim,
            time_proj_dim=6 * dim,
            text_embed_dim=text_dim,
            image_embed_dim=image_dim,
        )
        self.action_encoder = ActionEncoder(action_dim, dim)
        self.state_encoder = ControlProjector(state_dim, control_hidden_dim, dim)
        self.blocks = nn.ModuleList(
            WorldActionBlock(
                dim,
                ffn_dim,
                num_attention_heads,
                cross_attn_norm=True,
                eps=eps,
                added_kv_proj_dim=None if image_dim is None else dim,
            )
            for _ in range(num_layers)
        )
        self.norm_out = FP32LayerNorm(dim, eps, elementwise_affine=False)
        self.proj_out = nn.Linear(dim, out_channels * math.prod(PATCH_SIZE))
        self.scale_shift_table = nn.Parameter(torch.randn(1, 2, dim) / dim**0.5)
        self.action_decoder = ControlProjector(dim, control_hidden_dim, action_dim)
        self.gradient_checkpointing = False

    @classmethod
    def from_model_config(cls, config: ModelConfig) -> WorldActionTransformer:
        """An untrained transformer of the given variant."""
        geometry, transformer = config.geometry, config.transformer
        return cls(
            num_layers=transformer.num_layers,
            num_attention_heads=transformer.num_attention_heads,
            attention_head_dim=transformer.attention_head_dim,
            ffn_dim=transformer.ffn_dim,
            in_channels=config.transformer_in_channels,
            out_channels=config.autoencoder.latent_channels,
            text_dim=config.text_encoder.dim,
            image_dim=config.image_encoder.dim,
            freq_dim=transformer.freq_dim,
            action_dim=geometry.max_action_dim,
            state_dim=geometry.max_state_dim,
            control_hidden_dim=transformer.control_hidden_dim,
            frames_per_chunk=geometry.frames_per_chunk,
            actions_per_chunk=geometry.actions_per_chunk,
            predicts=transformer.predicts,
        )

    @torch.no_grad()
    def initialise_weights(self) -> None:
        """Weights to start training from: Xavier, small embedders, and a video head that starts at zero."""
        for module in self.modules():
            if isinstance(module, EmbodimentLinear):
                module.reset_parameters()
            elif isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.patch_embedding.weight.flatten(1))
        nn.init.zeros_(self.patch_embedding.bias)
        for embedder in (self.condition_embedder.text_embedder, self.condition_embedder.time_embedder):
            nn.init.normal_(embedder.linear_1.weight, std=0.02)
            nn.init.normal_(embedder.linear_2.weight, std=0.02)
        nn.init.zeros_(self.proj_out.weight)

    # ---------------------------------------------------------------- precision

    def to(self, *args: Any, **kwargs: Any) -> WorldActionTransformer:
        """torch's own; diffusers' warns at every cast that nothing is kept in float32, which is not so here."""
        return nn.Module.to(self, *args, **kwargs)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> WorldActionTransformer:
        """What ``.to``, ``.bfloat16``, ``.half`` and their like end in: kept parts follow to the device, not below
        float32."""
        kept = {
            id(tensor)
            for name, parameter in self.named_parameters()
            if not set(self.keep_in_float32).isdisjoint(name.split("."))
            for tensor in (parameter, parameter.grad)
        }

        def keeping(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            narrowed = moved.is_floating_point() and moved.dtype.itemsize < torch.float32.itemsize
            return tensor.to(moved.device) if narrowed and id(tensor) in kept else moved

        return super()._apply(keeping, recurse)

    @property
    def compute_dtype(self) -> torch.dtype:
        """The dtype of matrix products: autocast's where it is on, else that of the weights."""
        if torch.is_autocast_enabled(self.device.type):
            return torch.get_autocast_dtype(self.device.type)
        return self.patch_embedding.weight.dtype

    # ---------------------------------------------------------------- conditioning

    def encode_text(self, text: Tensor) -> tuple[KeyValue, ...]:
        """Text features [B, N, text_dim] to keys and values of every layer. Once per prompt."""
        embedded = self.condition_embedder.text_embedder(text)
        return tuple(block.text_key_value(embedded) for block in self.blocks)

    def encode_image(self, image: Tensor) -> tuple[KeyValue, ...]:
        """Image features [B or 1, N, image_dim] to keys and values of every layer. Once per window."""
        embedded = self.condition_embedder.image_embedder(image)
        return tuple(block.image_key_value(embedded) for block in self.blocks)

    def context(self, text: Tensor, image: Tensor | None = None) -> Context:
        """Both at once."""
        return Context(self.encode_text(text), None if image is None else self.encode_image(image))

    def empty_cache(self, *, batch: int, frames: int, height: int, width: int) -> KVCache:
        """Room for ``frames`` latent frames of the given latent height and width."""
        rows, columns = self._grid(height, width)
        return KVCache.empty(
            layers=self.config.num_layers,
            batch=batch,
            capacity=frames * rows * columns,
            heads=self.blocks[0].attn1.heads,  # those that are here: the others may be another process's
            head_dim=self.config.attention_head_dim,
            device=self.device,
            dtype=self.compute_dtype,
        )

    # ---------------------------------------------------------------- the three verbs

    def forward(
        self,
        clean: Tensor,
        noisy: Tensor,
        condition: Tensor | None,
        action: Tensor,
        state: Tensor,
        video_time: Tensor,
        action_time: Tensor,
        context: Context,
        *,
        state_attention: str = "training",
    ) -> tuple[Tensor, Tensor]:
        """Teacher forcing: the velocities of every chunk of a window, each given the clean past.

        Args:
            clean, noisy: latents [B, C, F, H, W], F = 1 + chunks x frames_per_chunk.
            condition: image condition [B, 4 + C, F, H, W], or None for layouts without it.
            action: noisy actions [B, chunks x actions_per_chunk, action_dim].
            state: [B, chunks, state_dim].
            video_time: [B, F], action_time: [B, actions]; 1000 is noise. A state takes its chunk's first action time.
            context: text and image keys and values with gradients, from :meth:`context`.

        Returns:
            Video velocity [B, C, F, H, W] and action velocity [B, actions, action_dim].

        Later chunks are invisible to earlier ones, so windows of different length share a batch by padding at the end.
        """
        frames, (rows, columns) = clean.shape[2], self._grid(*clean.shape[3:])
        length, actions, per_chunk = frames * rows * columns, action.shape[1], self.config.actions_per_chunk
        tokens = self.layout.window(frames, rows, columns, clean.device)
        if len(tokens) != 2 * length + actions + state.shape[1]:
            raise ValueError(
                f"{frames} latent frames have {self.layout.chunk_of_frame(frames - 1)} chunks of {per_chunk} actions "
                f"and one state; got {actions} actions and {state.shape[1]} states"
            )
        # distinct times: 0 of the clean half, one per latent frame, one per action
        frame_index = torch.arange(frames, device=clean.device).repeat_interleave(rows * columns)
        action_index = torch.arange(actions, device=clean.device)
        times = Times(
            torch.cat([torch.zeros_like(video_time[:, :1]), video_time, action_time], dim=1),
            torch.cat(
                [
                    torch.zeros_like(frame_index),
                    1 + frame_index,
                    1 + frames + action_index,
                    1 + frames + action_index[::per_chunk],
                ]
            ),
        )
        x = torch.cat(
            [
                self._video_tokens(clean, condition),
                self._video_tokens(noisy, condition),
                self.action_encoder(action, Times(action_time, action_index)),
                self.state_encoder(state),
            ],
            dim=1,
        )
        mask = visibility(tokens, tokens, state_attention)
        x, embedded_time = self._run(x, times, tokens, context, [present_only] * len(self.blocks), mask=mask)
        video = self._to_video(x[:, length : 2 * length], embedded_time[:, length : 2 * length], frames, rows, columns)
        return (
            self.velocity(video, noisy, video_time[:, None, :, None, None]),
            self.velocity(self._to_action(x[:, 2 * length : 2 * length + actions]), action, action_time[..., None]),
        )

    def observe(
        self, cache: KVCache, context: Context, latents: Tensor, condition: Tensor | None, *, first_frame: int
    ) -> None:
        """Append real latent frames to the cache: a pass at t = 0. The only verb that changes the past.

        Args:
            context: its text has B rows, as the cache.
            latents: [B or 1, C, f, H, W]; condition: [B or 1, 4 + C, f, H, W] of the same frames, or None.
            first_frame: index of the first of them in the window.
        """
        frames, (rows, columns) = latents.shape[2], self._grid(*latents.shape[3:])
        self._require_past(cache, first_frame, rows, columns)
        tokens = self.layout.video(CLEAN, first_frame, frames, rows, columns, latents.device)
        times = Times(torch.zeros(1, 1, device=latents.device, dtype=torch.float64))
        x, time = self._video_tokens(latents, condition).float(), self._embed(times)
        *blocks, last = self.blocks
        for i, block in enumerate(blocks):
            x = block(x, block.modulate(time.projected, times), tokens.phase, *context.layer(i), _appending(cache, i))
        last.remember(x, last.modulate(time.projected, times), tokens.phase, _appending(cache, len(blocks)))
        cache.advance(len(tokens))

    def denoise(
        self,
        cache: KVCache,
        context: Context,
        latents: Tensor,
        condition: Tensor | None,
        action: Tensor,
        state: Tensor,
        *,
        first_frame: int,
        video_time: float | Tensor,
        action_time: float | Tensor,
        state_attention: str = "release",
    ) -> tuple[Tensor, Tensor]:
        """Velocities of one chunk, given the cached past. The cache is only read.

        Args:
            context: its text has B rows, as the cache.
            latents: noisy [B or 1, C, f, H, W]; condition as in :meth:`observe`.
            action: noisy [B or 1, A, action_dim]; state: [B or 1, 1, state_dim]; as many rows as the latents.
            video_time, action_time: one flow time for all of them or one per row of the batch [B]; the state takes
                the action's.
            state_attention: ``release`` (sees the past and its chunk) or ``training`` (itself only).

        Returns:
            Video velocity [B, C, f, H, W] and action velocity [B, A, action_dim].
        """
        frames, (rows, columns) = latents.shape[2], self._grid(*latents.shape[3:])
        self._require_past(cache, first_frame, rows, columns)
        length, actions, device = frames * rows * columns, action.shape[1], latents.device
        if state_attention not in STATE_ATTENTION:
            raise ValueError(f"state_attention is {state_attention!r}, expected one of {STATE_ATTENTION}")
        tokens = self.layout.chunk(first_frame, frames, rows, columns, device)
        x = torch.cat(
            [
                self._video_tokens(latents, condition),
                self.action_encoder(action, Times(_as_times(action_time, device))),
                self.state_encoder(state),
            ],
            dim=1,
        )
        times = Times(_as_times(video_time, device))
        if action_time is not video_time and not _equal_numbers(action_time, video_time):
            index = (torch.arange(len(tokens), device=device) >= length).long()
            times = Times(torch.cat([times.values, _as_times(action_time, device)], dim=1), index)
        reach = [_joining(cache, layer) for layer in range(len(self.blocks))]
        x, embedded_time = self._run(
            x, times, tokens, context, reach, solitary=state.shape[1] if state_attention == "training" else 0
        )
        if times.index is not None:
            embedded_time = embedded_time[:, :length]
        video = self._to_video(x[:, :length], embedded_time, frames, rows, columns)
        return (
            self.velocity(video, latents, _as_times(video_time, device)[..., None, None, None]),
            self.velocity(
                self._to_action(x[:, length : length + actions]), action, _as_times(action_time, device)[..., None]
            ),
        )

    def velocity(self, predicted: Tensor, noisy: Tensor, time: Tensor) -> Tensor:
        """What a head predicts for ``noisy``, as a velocity. ``time`` is broadcast against them; 1000 is noise."""
        if self.config.predicts == "velocity":
            return predicted
        sigma = (time / TRAIN_LEVELS).clamp(min=LEAST_SIGMA).to(device=noisy.device, dtype=torch.float32)
        return (noisy.float() - predicted.float()) / sigma

    # ---------------------------------------------------------------- shared by the verbs

    def _embed(self, times: Times) -> TimeEmbedding:
        embedder, dtype = self.condition_embedder, self.compute_dtype
        sinusoid = time_sinusoid(times.values, self.config.freq_dim)
        embedded = embedder.time_embedder(sinusoid.to(embedder.time_embedder.linear_1.weight.dtype)).to(dtype)
        projected = embedder.time_proj(embedder.act_fn(embedded)).unflatten(2, (6, -1)).float()
        return TimeEmbedding(embedded.float(), with_unit_factors(projected))

    def _run(
        self,
        x: Tensor,
        times: Times,
        tokens: Tokens,
        context: Context,
        reach: Sequence[Reach],
        *,
        mask: Tensor | None = None,
        solitary: int = 0,
    ) -> tuple[Tensor, Tensor]:
        """All blocks; returns x [B, L, D] float32 and the embedded time [B or 1, L or 1, D] float32 for the head."""
        time, x = self._embed(times), x.float()
        for i, block in enumerate(self.blocks):
            modulation = block.modulate(time.projected, times)
            arguments = (x, modulation, tokens.phase, *context.layer(i), reach[i], mask, solitary)
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                x = self._gradient_checkpointing_func(block, *arguments)
            else:
                x = block(*arguments)
        return x, times.spread(time.embedded)

    def _video_tokens(self, latents: Tensor, condition: Tensor | None) -> Tensor:
        """Latents and their image condition to tokens [B, L, D]."""
        if condition is not None:
            latents = torch.cat([latents, condition.expand(len(latents), -1, -1, -1, -1)], dim=1)
        _, patch_rows, patch_columns = PATCH_SIZE
        patches = latents.unflatten(4, (-1, patch_columns)).unflatten(3, (-1, patch_rows))  # [B, C, f, H/2, 2, W/2, 2]
        patches = patches.permute(0, 2, 3, 5, 1, 4, 6).flatten(4).flatten(1, 3)
        # a convolution whose patches do not overlap is a matrix product, and a quicker one
        return F.linear(patches, self.patch_embedding.weight.flatten(1), self.patch_embedding.bias)

    def _to_video(self, x: Tensor, embedded_time: Tensor, frames: int, rows: int, columns: int) -> Tensor:
        """Tokens [B, L, D] to latents [B, C, f, H, W]; a token holds a patch with the channel fastest."""
        shift, scale = (self.scale_shift_table[:, None].float() + embedded_time[:, :, None]).unbind(2)
        h = torch.addcmul(shift, self.norm_out(x), 1 + scale)
        patches = self.proj_out(h.to(self.proj_out.weight.dtype))
        _, patch_rows, patch_columns = PATCH_SIZE
        patches = patches.unflatten(2, (patch_rows, patch_columns, -1)).unflatten(1, (frames, rows, columns))
        return patches.permute(0, 6, 1, 2, 4, 3, 5).flatten(5, 6).flatten(3, 4)

    def _to_action(self, x: Tensor) -> Tensor:
        """Tokens [B, A, D] to actions [B, A, action_dim]; no norm and no modulation on the way."""
        return self.action_decoder(x.to(self.action_decoder.layer1.W.dtype))

    def _grid(self, height: int, width: int) -> tuple[int, int]:
        return height // PATCH_SIZE[1], width // PATCH_SIZE[2]

    def _require_past(self, cache: KVCache, first_frame: int, rows: int, columns: int) -> None:
        expected = first_frame * rows * columns
        if cache.length != expected:
            raise ValueError(
                f"frame {first_frame} needs {expected} tokens in the cache ({rows * columns} a frame), "
                f"it has {cache.length}"
            )


def _appending(cache: KVCache, layer: int) -> Reach:
    return lambda key, value: cache.append(layer, key, value)


def _joining(cache: KVCache, layer: int) -> Reach:
    return lambda key, value: cache.join(layer, key, value)


def _as_times(time: float | Tensor, device: torch.device) -> Tensor:
    """A number or a batch of numbers to [B or 1, 1] float64."""
    return torch.as_tensor(time, dtype=torch.float64, device=device).reshape(-1, 1)


def _equal_numbers(a: float | Tensor, b: float | Tensor) -> bool:
    return not isinstance(a, Tensor) and not isinstance(b, Tensor) and a == b
