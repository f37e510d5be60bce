"""Pixels to latents and back, as a stream: the causal Wan autoencoder with its features carried from call to call.

diffusers' ``AutoencoderKLWan`` encodes clips and clears its caches around every call. Here the carried features are an
object (:class:`Stream`) that the caller holds, copies and passes in, so that a running camera is encoded block by block
with the result of encoding the whole clip at once. Decisions:

* the first call takes one frame (or 1 + 4n), later calls any multiple of four: one latent frame for the first raw
  frame, then one for every four;
* the mean of the posterior is the latent, normalised per channel; no sampling;
* pixels are in [−1, 1]; a uint8 value u is (u / 255 − 0.5) / 0.5.

Letters: B batch, T raw frames, F latent frames, C latent channels, H W pixels, h w latent rows and columns.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan, patchify, unpatchify
from torch import Tensor, nn

from dreamzero_policy.model.config import CONDITION_MASK_CHANNELS, TEMPORAL_FACTOR, AutoencoderConfig


@dataclass
class Stream:
    """Carried convolution features of one direction (encode or decode) of one clip, and how far it has come.

    ``frames`` counts raw frames when encoding and latent frames when decoding.
    """

    features: list = field(default_factory=list)
    frames: int = 0

    def copy(self) -> Stream:
        """A branch of the stream. The feature tensors are shared: a step replaces them and never writes into them."""
        return Stream(list(self.features), self.frames)


def build_autoencoder(config: AutoencoderConfig) -> AutoencoderKLWan:
    """The stock network of the given sizes, untrained."""
    pixels_per_position = (config.patch_size or 1) ** 2
    return AutoencoderKLWan(
        base_dim=config.base_dim,
        decoder_base_dim=config.decoder_base_dim,
        z_dim=config.latent_channels,
        dim_mult=list(config.dim_mult),
        num_res_blocks=config.num_res_blocks,
        temperal_downsample=list(config.temporal_downsample),
        latents_mean=list(config.latents_mean),
        latents_std=list(config.latents_std),
        is_residual=config.residual,
        in_channels=3 * pixels_per_position,
        out_channels=3 * pixels_per_position,
        patch_size=config.patch_size,
        scale_factor_spatial=config.spatial_factor,
        scale_factor_temporal=TEMPORAL_FACTOR,
    )


def to_video(frames: np.ndarray | Tensor, device: torch.device | str, dtype: torch.dtype) -> Tensor:
    """uint8 RGB [T, H, W, 3] to [1, 3, T, H, W] in [−1, 1]."""
    pixels = torch.as_tensor(frames, device=device).permute(3, 0, 1, 2)[None]
    return ((pixels.to(torch.float32) / 255 - 0.5) / 0.5).to(dtype)


def to_uint8(video: Tensor) -> np.ndarray:
    """[1, 3, T, H, W] in [−1, 1] to uint8 RGB [T, H, W, 3], rounded."""
    pixels = (video[0].float() * 0.5 + 0.5).mul(255).round().clamp(0, 255).to(torch.uint8)
    return pixels.permute(1, 2, 3, 0).contiguous().cpu().numpy()


def restarted_clip(video: Tensor, latent_frames: int) -> Tensor:
    """A block as the released server encodes it: a clip that starts at the block, not at the window.

    A copy of the first frame goes in front of a block [B, 3, 4 f, H, W], f being ``latent_frames``; where there are n
    times fewer frames, each is first repeated n times; 4 f + 1 frames stay as they are. The result has 4 f + 1 frames,
    of whose 1 + f latents the last f are the block's.
    Raises ValueError for any other number of frames.
    """
    block, frames = TEMPORAL_FACTOR * latent_frames, video.shape[2]
    if frames == block + 1:
        return video
    if frames % TEMPORAL_FACTOR or frames == 0 or block % frames:
        raise ValueError(
            f"a block of {latent_frames} latent frames is made of {block}, {block + 1} or n times fewer than {block} "
            f"frames (a multiple of {TEMPORAL_FACTOR}), got {frames}"
        )
    video = video.repeat_interleave(block // frames, dim=2)
    return torch.cat([video[:, :, :1], video], dim=2)


class VideoAutoencoder:
    """Streaming encode and decode over one stock network."""

    def __init__(self, network: AutoencoderKLWan) -> None:
        self.network = network

    @property
    def device(self) -> torch.device:
        return self.network.quant_conv.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.network.quant_conv.weight.dtype

    def encode(self, video: Tensor, stream: Stream) -> Tensor:
        """[B, 3, T, H, W] in [−1, 1] to normalised latents [B, C, F, h, w]; advances the stream.

        Raises ValueError unless T is 1 + 4n at the start of a stream and 4n later.
        """
        at_start = stream.frames == 0
        frames = video.shape[2]
        if frames == 0 or (frames - at_start) % TEMPORAL_FACTOR:
            expected = "1, 5, 9, … frames at the start of a stream" if at_start else "4, 8, … frames within a stream"
            raise ValueError(f"the autoencoder takes {expected}, got {frames}")
        if at_start:
            stream.features = [None] * self.network._cached_conv_counts["encoder"]
            parts = [video[:, :, :1], video[:, :, 1:]] if frames > 1 else [video]
        else:
            parts = [video]
        latents = torch.cat([self._encode_part(part, stream.features) for part in parts], dim=2)
        stream.frames += frames
        return latents

    def decode(self, latents: Tensor, stream: Stream) -> Tensor:
        """Normalised latents [B, C, F, h, w] to video [B, 3, T, H, W] in [−1, 1]; advances the stream.

        T is 4F − 3 at the start of a stream and 4F later.
        """
        if stream.frames == 0:
            stream.features = [None] * self.network._cached_conv_counts["decoder"]
        mean, std = self._normalisation(latents)
        z = self.network.post_quant_conv(latents * std + mean)
        parts = []
        for frame in z.split(1, dim=2):
            part = self.network.decoder(frame, feat_cache=stream.features, feat_idx=[0], first_chunk=stream.frames == 0)
            stream.frames += 1
            parts.append(part)
        video = torch.cat(parts, dim=2)
        if self.network.config.patch_size is not None:
            video = unpatchify(video, self.network.config.patch_size)
        return video.clamp(-1, 1)

    def image_condition(
        self, first_latent: Tensor, stream: Stream, latent_frames: int, video_size: torch.Size
    ) -> Tensor:
        """The image condition of a window: what is given (the first frame) and what is not (grey).

        Args:
            first_latent: latent of the first frame [B, C, 1, h, w].
            stream: the encoder stream right after that frame; it is not advanced.
            latent_frames: length of the window.
            video_size: shape of the first frame's video [B, 3, 1, H, W].

        Returns:
            [B, 4 + C, latent_frames, h, w]: four mask channels, 1 on latent frame 0, then the latents of the first
            frame followed by frames of zeros (mid-grey in [−1, 1]).
        """
        batch, channels, _, height, width = video_size
        grey = first_latent.new_zeros(batch, channels, (latent_frames - 1) * TEMPORAL_FACTOR, height, width)
        latents = torch.cat([first_latent, self.encode(grey, stream.copy())], dim=2)
        mask = latents.new_zeros(batch, CONDITION_MASK_CHANNELS, *latents.shape[2:])
        mask[:, :, 0] = 1
        return torch.cat([mask, latents], dim=1)

    def _encode_part(self, video: Tensor, features: list) -> Tensor:
        if self.network.config.patch_size is not None:
            video = patchify(video, self.network.config.patch_size)
        video = video.contiguous(memory_format=_memory_format(self.network))
        moments = self.network.quant_conv(self.network.encoder(video, feat_cache=features, feat_idx=[0]))
        mean, std = self._normalisation(video)
        return (moments[:, : self.network.config.z_dim] - mean) / std

    def _normalisation(self, like: Tensor) -> tuple[Tensor, Tensor]:
        config = self.network.config
        shape = (1, config.z_dim, 1, 1, 1)
        return like.new_tensor(config.latents_mean).view(shape), like.new_tensor(config.latents_std).view(shape)


def _memory_format(network: AutoencoderKLWan) -> torch.memory_format:
    weight = network.encoder.conv_in.weight
    channels_last = weight.is_contiguous(memory_format=torch.channels_last_3d)
    return torch.channels_last_3d if channels_last and not weight.is_contiguous() else torch.contiguous_format


def speed_up_on_cpu(network: AutoencoderKLWan) -> None:
    """Choose the fast convolution kernels of a CPU; the results are the same up to rounding.

    Two things make the stock network slow there. The norm over channels strides through memory unless channels come
    last; and for float32 and batch 1, torch prefers a plain convolution loop over oneDNN below a size that all layers
    of a small network are below, at a tenth of the speed. So channels come last, and oneDNN is called by name.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last_3d)
            if torch.backends.mkldnn.is_available():
                module._conv_forward = partial(_onednn_conv3d, module.stride, module.dilation, module.groups)
        elif isinstance(module, nn.Conv2d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)


def _onednn_conv3d(
    stride: tuple[int, ...], dilation: tuple[int, ...], groups: int, x: Tensor, weight: Tensor, bias: Tensor | None
) -> Tensor:
    """Stands in for ``nn.Conv3d._conv_forward``; the causal padding has been applied before."""
    if x.device.type != "cpu" or x.dtype != torch.float32:  # for bfloat16 torch itself calls oneDNN where the CPU can
        return F.conv3d(x, weight, bias, stride, 0, dilation, groups)
    return torch.ops.aten.mkldnn_convolution(x, weight, bias, [0, 0, 0], stride, dilation, groups)
