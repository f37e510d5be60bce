"""What a training step adds noise to, and how much.

Flow matching: x_t = (1 − σ) x0 + σ ε with the target v = ε − x0; t = 1000 σ, and t = 1000 is noise. Every chunk has one
level for its latent frames and one for its actions and state; latent frame 0 has a level of its own. Decisions:

* `coupled`: both levels of a chunk are one draw, uniform over the shifted table. How a model is trained first;
* `flash`: the two are drawn apart. The video's is high: index floor((1 − r) 1000) with r from Beta(α, 1), the action's
  is uniform. A last stage that teaches the actions to come out of a video that is still noise, so that one step is
  enough;
* a model without video loss is shown video tokens of pure noise at :data:`BLIND_TIME`, and is served with the video
  kept there (`video_final_noise`). So it runs through the same network, tokens and session as the others, at the same
  cost, and knows nothing about the coming video;
* errors of the velocities are weighted by the bell around t = 500, as released; or alike at all levels (`flat`); or by
  σ², which makes them errors of the sample (`sample`). Video and actions have each their own (`video_weighting`,
  `action_weighting`). A chunk is smooth, so that at t = 500 its noisy actions show nearly where they go, and what is
  left to learn there is detail; where to go is decided at the first step of sampling, where the bell is almost 0 and a
  network with little time to train learns it last;
* a share of the chunks (`from_noise`) has a level where sampling begins, t > 998: a model that is served with one step
  is asked at no other, and of levels drawn alike one in fifty is such a one;
* the clean past may be noised slightly now and then (`noisy_history`) while its time stays 0: predictions lean less on
  details that a camera gets wrong;
* columns of the action vector beyond the contract's carry pure noise at every level, since a network that predicts
  velocities is silent about them and leaves them as they were drawn. One that predicts samples takes them to zero, and
  is trained with zeros there.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dreamzero_policy.model.flow import TRAIN_LEVELS, NoiseTable, add_noise, velocity_target
from dreamzero_policy.training.latents import Batch

NOISES = ("coupled", "flash")
WEIGHTINGS = ("bell", "flat", "sample")
BLIND_NOISE = 0.999  # σ at which the sampler keeps the video of a model without video loss
FIRST_LEVELS = 10  # of the table, t from 1000 to 998: where sampling begins
BLIND_TIME = 999.0  # the time that the sampler then gives it at every step


@dataclass(frozen=True, kw_only=True)
class NoiseSettings:
    """How noise is drawn; fields as in the recipe."""

    noise: str = "coupled"
    video_beta: float = 7.0
    video_weighting: str = "bell"
    action_weighting: str = "bell"
    from_noise: float = 0.0
    video_loss: bool = True
    noisy_history: float = 0.0
    history_noise: float = 0.1


@dataclass(frozen=True, eq=False)
class NoisyBatch:
    """A batch with its noise. F = 1 + 2 n latent frames, n chunks of A actions; times are 1000 σ."""

    batch: Batch
    history: Tensor  # [B, C, F, h, w] what is shown as the clean past
    video: Tensor  # [B, C, F, h, w]
    action: Tensor  # [B, n A, max_action_dim]
    video_time: Tensor  # [B, F]
    action_time: Tensor  # [B, n]
    video_target: Tensor  # as video
    action_target: Tensor  # as action
    video_weight: Tensor  # [B, F]
    action_weight: Tensor  # [B, n]

    def part(self, rows: Sequence[int]) -> "NoisyBatch":
        """Some of its windows, with the noise that they have."""
        index = torch.tensor(rows, device=self.video.device)
        tensors = {name: value[index] for name, value in vars(self).items() if name != "batch"}
        return NoisyBatch(batch=self.batch.part(rows), **tensors)


def draw_levels(items: int, chunks: int, settings: NoiseSettings, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Indices into the table: of latent frame 0 and the video of each chunk [B, 1 + n], of the actions [B, n]."""
    if settings.noise == "coupled":
        level = torch.randint(TRAIN_LEVELS, (items, 1 + chunks), generator=generator)
        if settings.from_noise:
            begins = torch.rand(items, 1 + chunks, generator=generator) < settings.from_noise
            level = torch.where(begins, level % FIRST_LEVELS, level)
        return level, level[:, 1:]
    r = torch.rand(items, 1 + chunks, generator=generator, dtype=torch.float64) ** (1 / settings.video_beta)
    video = ((1 - r) * TRAIN_LEVELS).long().clamp(max=TRAIN_LEVELS - 1)
    return video, torch.randint(TRAIN_LEVELS, (items, chunks), generator=generator)


def corrupt(
    batch: Batch,
    table: NoiseTable,
    generator: torch.Generator,
    settings: NoiseSettings,
    *,
    padding_is_noise: bool = True,
) -> NoisyBatch:
    """Draw levels and noise and mix them in. Everything is drawn on the CPU and follows the batch to its device."""
    items, chunks = batch.chunk_valid.shape
    device = batch.latents.device
    frames_per_chunk, actions_per_chunk = (batch.latents.shape[2] - 1) // chunks, batch.action.shape[1] // chunks
    of_chunks, action_level = draw_levels(items, chunks, settings, generator)
    video_level = torch.cat([of_chunks[:, :1], of_chunks[:, 1:].repeat_interleave(frames_per_chunk, 1)], dim=1)
    video_noise = torch.randn(batch.latents.shape, generator=generator).to(device)
    action_noise = torch.randn(batch.action.shape, generator=generator).to(device)
    sigma = table.sigmas[action_level].repeat_interleave(actions_per_chunk, 1)[..., None].to(device)
    action = add_noise(batch.action, action_noise, sigma)
    if settings.video_loss:
        video = add_noise(batch.latents, video_noise, table.sigmas[video_level].to(device)[:, None, :, None, None])
        video_time = table.times[video_level].to(device)
    else:
        video, video_time = video_noise, torch.full(video_level.shape, BLIND_TIME, device=device)
    return NoisyBatch(
        batch=batch,
        history=_history(batch.latents if batch.history is None else batch.history, settings, generator),
        video=video,
        action=torch.where(batch.action_valid, action, action_noise) if padding_is_noise else action,
        video_time=video_time,
        action_time=table.times[action_level].to(device),
        video_target=velocity_target(batch.latents, video_noise),
        action_target=velocity_target(batch.action, action_noise),
        video_weight=_weights(table, video_level, settings.video_weighting).to(device),
        action_weight=_weights(table, action_level, settings.action_weighting).to(device),
    )


def _weights(table: NoiseTable, level: Tensor, weighting: str) -> Tensor:
    """Of the squared error of a velocity at each level."""
    if weighting == "bell":
        return table.weights[level]
    return table.sigmas[level].square() if weighting == "sample" else torch.ones_like(table.weights[level])


def _history(latents: Tensor, settings: NoiseSettings, generator: torch.Generator) -> Tensor:
    """The clean past, of some items with σ up to `history_noise`, another for each latent frame."""
    if not settings.noisy_history:
        return latents
    items, _, frames = latents.shape[:3]
    chosen = torch.rand(items, 1, generator=generator) < settings.noisy_history
    sigma = settings.history_noise * torch.rand(items, frames, generator=generator) * chosen
    noise = torch.randn(latents.shape, generator=generator)
    return add_noise(latents, noise.to(latents.device), sigma.to(latents.device)[:, None, :, None, None])
