"""The joint objective: video and actions of every chunk of a window, denoised together, given the clean past.

Teacher forcing over `[clean video | noisy video | actions | states]`. Flow matching: x_t = (1 − σ) x0 + σ ε with the
target v = ε − x0; t = 1000 is noise. Decisions:

* one noise level per chunk, drawn uniformly from the shifted table, shared by its latent frames and its actions; latent
  frame 0 has a level of its own;
* squared errors are weighted by the table's bell around t = 500;
* an item's video loss is the mean over its own latent frames, its action loss the mean over its own chunks and the
  columns that the contract uses. A batch is the mean of its items, so padding and the lengths of neighbours do not
  matter;
* video : action = 1 : 1.

Columns of the action vector beyond the contract's carry pure noise at every level and no loss: at inference the network
neither reads anything from them nor (with `ignore_padding`) moves them.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from dreamzero_policy.model.flow import TRAIN_LEVELS, NoiseTable, add_noise, velocity_target
from dreamzero_policy.model.transformer import Context, WorldActionTransformer
from dreamzero_policy.training.latents import Batch


@dataclass(frozen=True, eq=False)
class NoisyBatch:
    """A batch with its noise. F = 1 + 2 n latent frames, A = 24 n actions; times are 1000 σ."""

    batch: Batch
    video: Tensor  # [B, C, F, h, w]
    action: Tensor  # [B, A, max_action_dim]
    video_time: Tensor  # [B, F]
    action_time: Tensor  # [B, A]
    video_target: Tensor  # as video
    action_target: Tensor  # as action
    video_weight: Tensor  # [B, F]
    action_weight: Tensor  # [B, A]


@dataclass(frozen=True)
class Losses:
    """Scalars with gradients."""

    video: Tensor
    action: Tensor

    @property
    def total(self) -> Tensor:
        return self.video + self.action


def corrupt(batch: Batch, table: NoiseTable, generator: torch.Generator) -> NoisyBatch:
    """Draw noise and levels and mix them in."""
    items, chunks = batch.chunk_valid.shape
    frames_per_chunk, actions_per_chunk = (batch.latents.shape[2] - 1) // chunks, batch.action.shape[1] // chunks
    level = torch.randint(TRAIN_LEVELS, (items, 1 + chunks), generator=generator)
    video_level = torch.cat([level[:, :1], level[:, 1:].repeat_interleave(frames_per_chunk, 1)], dim=1)
    action_level = level[:, 1:].repeat_interleave(actions_per_chunk, 1)
    video_noise = torch.randn(batch.latents.shape, generator=generator)
    action_noise = torch.randn(batch.action.shape, generator=generator)
    action = add_noise(batch.action, action_noise, table.sigmas[action_level][..., None])
    return NoisyBatch(
        batch=batch,
        video=add_noise(batch.latents, video_noise, table.sigmas[video_level][:, None, :, None, None]),
        action=torch.where(batch.action_valid, action, action_noise),
        video_time=table.times[video_level],
        action_time=table.times[action_level],
        video_target=velocity_target(batch.latents, video_noise),
        action_target=velocity_target(batch.action, action_noise),
        video_weight=table.weights[video_level],
        action_weight=table.weights[action_level],
    )


def velocities(
    transformer: WorldActionTransformer, noisy: NoisyBatch, context: Context, state_attention: str
) -> tuple[Tensor, Tensor]:
    """What the transformer says: float32 velocities of video and action. Layouts without image condition only."""
    dtype = transformer.patch_embedding.weight.dtype
    video, action = transformer(
        noisy.batch.latents.to(dtype),
        noisy.video.to(dtype),
        None,
        noisy.action.to(dtype),
        noisy.batch.state.to(dtype),
        noisy.video_time,
        noisy.action_time,
        context,
        state_attention=state_attention,
    )
    return video.float(), action.float()


def losses(video: Tensor, action: Tensor, noisy: NoisyBatch) -> Losses:
    """Weighted squared errors of predicted velocities."""
    valid = noisy.batch.chunk_valid.float()
    chunks = valid.shape[1]
    frame_valid = torch.cat(
        [torch.ones_like(valid[:, :1]), valid.repeat_interleave((video.shape[2] - 1) // chunks, 1)], dim=1
    )
    row_valid = valid.repeat_interleave(action.shape[1] // chunks, 1)
    video_error = (video - noisy.video_target).square().mean((1, 3, 4)) * noisy.video_weight
    columns = noisy.batch.action_valid
    action_error = (action - noisy.action_target)[..., columns].square().mean(2) * noisy.action_weight
    return Losses(_mean_of_items(video_error, frame_valid), _mean_of_items(action_error, row_valid))


@torch.no_grad()
def ignore_padding(transformer: WorldActionTransformer, action_valid: Tensor) -> None:
    """Make the network silent about action columns that the contract does not use. No gradient changes that later."""
    last = transformer.action_decoder.layer2
    last.W[..., ~action_valid] = 0
    last.b[..., ~action_valid] = 0


def _mean_of_items(error: Tensor, valid: Tensor) -> Tensor:
    """Mean over each item's valid entries, then over items; [B, N] both."""
    return (torch.where(valid > 0, error, 0.0).sum(1) / valid.sum(1)).mean()
