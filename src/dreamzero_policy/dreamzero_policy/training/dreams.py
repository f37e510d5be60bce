"""What the model dreams during training, as short films: what was seen on the left, what was predicted on the right.

Each chunk is predicted from the true past, as on a robot that sees its real cameras; the dreams follow each other as
one clip. The left is the true latents decoded, so both sides have gone through the same autoencoder.
"""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from torch import Tensor

from dreamzero_policy.model.autoencoder import Stream, VideoAutoencoder, to_uint8
from dreamzero_policy.model.checkpoint import Networks
from dreamzero_policy.model.conditioning import ImageConditioner, TextConditioner, Tokenizer
from dreamzero_policy.model.config import ModelConfig
from dreamzero_policy.model.flow import noise, sample_chunk, sampling_schedule
from dreamzero_policy.training.latents import LatentWindow, collate


@torch.no_grad()
def dream(
    networks: Networks, tokenizer: Tokenizer, config: ModelConfig, window: LatentWindow, steps: int
) -> tuple[Tensor, Tensor]:
    """Predicted latents [1, C, F, h, w] of a window whose first frame is given, and predicted actions [1, n A, D]."""
    transformer, batch, per_chunk = networks.transformer, collate([window], config), config.geometry.frames_per_chunk
    sampler = config.sampler
    text = TextConditioner(networks.text_encoder, tokenizer).encode(batch.prompts)
    context = transformer.context(text, ImageConditioner(networks.image_encoder).encode(batch.first_frame))
    frames, (height, width) = batch.latents.shape[2], batch.latents.shape[3:]
    cache = transformer.empty_cache(batch=1, frames=frames - per_chunk, height=height, width=width)
    past = batch.latents if batch.history is None else batch.history
    latents, actions, seen = [batch.latents[:, :, :1]], [], 0
    for chunk in range(window.chunks):
        first = 1 + chunk * per_chunk
        transformer.observe(cache, context, past[:, :, seen:first], None, first_frame=seen)
        seen, state = first, batch.state[:, chunk : chunk + 1]

        def velocity(video: Tensor, action: Tensor, video_time: int, action_time: int) -> tuple[Tensor, Tensor]:
            return transformer.denoise(
                cache,
                context,
                video,
                None,
                action,
                state,  # noqa: B023 (called within the turn of the loop)
                first_frame=first,  # noqa: B023
                video_time=video_time,
                action_time=action_time,
                state_attention=sampler.state_attention,
            )

        sample = sample_chunk(
            velocity,
            noise((1, latents[0].shape[1], per_chunk, height, width), sampler.seed, "cpu", torch.float32),
            noise(
                (1, config.geometry.actions_per_chunk, config.geometry.max_action_dim),
                sampler.seed,
                "cpu",
                torch.float32,
            ),
            video_schedule=sampling_schedule(steps, sampler.shift, sampler.video_final_noise or 0.0),
            action_schedule=sampling_schedule(steps, sampler.shift),
            evaluated=frozenset(range(steps)),
        )
        latents.append(sample.video)
        actions.append(sample.action)
    return torch.cat(latents, dim=2), torch.cat(actions, dim=1)


@torch.no_grad()
def write_film(path: Path, networks: Networks, truth: Tensor, dreamt: Tensor, rate_hz: int) -> None:
    """Both sides decoded and side by side as MP4 (H.264). The film is there whole or not at all."""
    autoencoder = VideoAutoencoder(networks.vae)
    sides = [to_uint8(autoencoder.decode(latents.to(autoencoder.dtype), Stream())) for latents in (truth, dreamt)]
    frames = np.concatenate(sides, axis=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.stem}.part{path.suffix}")
    with av.open(str(aside), "w") as container:
        stream = container.add_stream("libx264", rate=rate_hz, options={"preset": "veryfast", "crf": "20"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt, stream.time_base = "yuv420p", Fraction(1, rate_hz)
        for number, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    aside.replace(path)
