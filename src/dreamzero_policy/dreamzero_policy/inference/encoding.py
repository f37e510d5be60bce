"""How camera frames become the latents of a window: our way, and exactly the released server's.

Both are objects with the same few answers: which numbers of frames they take, which frame opens a window, and how a
block is encoded.

* ``stream`` (:class:`StreamedBlocks`): one autoencoder stream runs through the window, so a block's latents are those
  of encoding the whole clip at once. This is what the networks were trained on.
* ``release`` (:class:`RestartedBlocks`): the autoencoder starts afresh with every block, as the server of the released
  weights does. Needed for its numbers; its facts are those of dreamzero0/dreamzero at ab790c1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from dreamzero_policy.model.autoencoder import Stream, VideoAutoencoder, restarted_clip
from dreamzero_policy.model.config import VAE_MODES, ModelConfig


class Encoding(Protocol):
    """What a session asks about frames. T is the number of frames of one observation."""

    lengths: tuple[int, ...]  # the T it takes, 1 (opens a window) first
    needs_first_frame: bool  # whether a block may only follow a single first frame

    def opening_frame(self, frames: np.ndarray) -> np.ndarray:
        """Of frames [T, H, W, 3] the one [1, H, W, 3] that becomes the first frame of a window."""
        ...

    def block(self, autoencoder: VideoAutoencoder, video: Tensor, stream: Stream) -> Tensor:
        """Latents [B, C, frames per chunk, h, w] of a block [B, 3, T, H, W] that continues a window."""
        ...


@dataclass(frozen=True)
class StreamedBlocks:
    """One stream through the window; the newest frame opens the next."""

    lengths: tuple[int, ...]
    needs_first_frame: bool = True

    def opening_frame(self, frames: np.ndarray) -> np.ndarray:
        return frames[-1:]

    def block(self, autoencoder: VideoAutoencoder, video: Tensor, stream: Stream) -> Tensor:
        return autoencoder.encode(video, stream)


@dataclass(frozen=True)
class RestartedBlocks:
    """The autoencoder restarts at every block, on a clip made from the block alone (:func:`restarted_clip`).

    A block may come without a window: then one of its frames opens it. That frame is the newest of 4 or 9, and the
    *first* of any other number; send 4 or 9 frames, or a single one, where a window may open.
    """

    lengths: tuple[int, ...]
    latent_frames: int
    needs_first_frame: bool = False

    def opening_frame(self, frames: np.ndarray) -> np.ndarray:
        return frames[-1:] if len(frames) in (4, 9) else frames[:1]

    def block(self, autoencoder: VideoAutoencoder, video: Tensor, stream: Stream) -> Tensor:
        latents = autoencoder.encode(restarted_clip(video, self.latent_frames), Stream())
        return latents[:, :, -self.latent_frames :]


def encoding(vae_mode: str, config: ModelConfig) -> Encoding:
    """The encoding of that name. Raises ValueError for another name."""
    block, latent_frames = config.raw_frames_per_chunk, config.geometry.frames_per_chunk
    if vae_mode == "stream":
        return StreamedBlocks((1, block))
    if vae_mode == "release":
        repeated = (block // n for n in range(latent_frames, 1, -1) if latent_frames % n == 0)
        return RestartedBlocks(tuple(dict.fromkeys((1, *repeated, block, block + 1))), latent_frames)
    raise ValueError(f"vae_mode is {vae_mode!r}, expected one of {VAE_MODES}")
