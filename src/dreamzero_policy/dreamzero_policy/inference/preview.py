"""Predicted latents to pictures, as the continuation of the observed clip. Away from the hot path."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from dreamzero_policy.inference.prediction import Prediction
from dreamzero_policy.model.autoencoder import Stream, VideoAutoencoder, to_uint8


@dataclass
class Preview:
    """How far the decoder has come, so that each preview decodes new frames only.

    ``last`` is the newest observed latents it has seen. Every observation makes a tensor of its own, so which tensor it
    is says what came before it, over windows, resets, forks and rollbacks.
    """

    last: Tensor | None = None
    stream: Stream = field(default_factory=Stream)

    def decode(self, autoencoder: VideoAutoencoder, prediction: Prediction) -> np.ndarray:
        """The predicted frames, uint8 RGB [raw frames per chunk, H, W, 3]."""
        past = prediction.past_latents
        known = next((i + 1 for i, latents in enumerate(past) if latents is self.last), 0)
        stream = self.stream.copy() if known else Stream()
        for latents in past[known:]:
            autoencoder.decode(latents, stream)
        self.last, self.stream = past[-1], stream.copy()
        return to_uint8(autoencoder.decode(prediction.video_latents[None].to(past[-1].dtype), stream))
