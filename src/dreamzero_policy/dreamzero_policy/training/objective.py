"""The joint objective: video and actions of every chunk of a window, denoised together, given the clean past.

Teacher forcing over `[clean video | noisy video | actions | states]`; what noise goes in stands in ``noise.py``.
Decisions:

* squared errors of the velocities are weighted by the table's bell around t = 500;
* an item's video loss is the mean over its own latent frames (with `first_frame` false without frame 0, which no
  sampler ever asks for: it is what a session begins with), its action loss the mean over its own chunks. A batch is
  the mean of its items, so padding and the lengths of neighbours do not matter;
* the action loss of a row is the mean over the columns that the contract uses (`valid`), or over all columns of the
  padded vector with no error in the others, as the released weights were trained (`release`): the same gradient times
  used / all columns, 22 / 32 for the AgiBot G1;
* video : action = 1 : 1 as in DreamZero, or 1 : `action_weight`, or actions alone. Errors of actions are the smaller
  ones, and a small network that must choose spends itself on the video.

Columns beyond the contract's carry pure noise and no loss: at inference the network neither reads anything from them
nor (with `ignore_padding`) moves them.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from dreamzero_policy.model.transformer import WorldActionTransformer
from dreamzero_policy.training.noise import NoisyBatch

ACTION_LOSSES = ("valid", "release")


@dataclass(frozen=True)
class Losses:
    """Scalars with gradients. ``video`` is None where there is no video loss."""

    video: Tensor | None
    action: Tensor

    def scaled(self, factor: float) -> "Losses":
        return Losses(None if self.video is None else factor * self.video, factor * self.action)

    @property
    def total(self) -> Tensor:
        return self.weighted(1.0)

    def weighted(self, action_weight: float) -> Tensor:
        """What is minimised."""
        return self.action if self.video is None else self.video + action_weight * self.action


def losses(video: Tensor | None, action: Tensor, noisy: NoisyBatch, action_loss: str = "valid") -> Losses:
    """Weighted squared errors of predicted velocities; ``video`` None means that it has no loss.

    ``video`` may be without frame 0, which then has no loss.
    """
    valid = noisy.batch.chunk_valid.float()
    chunks = valid.shape[1]
    columns = noisy.batch.action_valid
    width = int(columns.sum()) if action_loss == "valid" else len(columns)
    error = (action - noisy.action_target).square()
    error = torch.where(columns, error, 0.0).sum(2).unflatten(1, (chunks, -1)).mean(2) / width
    action_part = _mean_of_items(error * noisy.action_weight, valid)
    if video is None:
        return Losses(None, action_part)
    asked, frames_per_chunk = video.shape[2], (noisy.video_target.shape[2] - 1) // chunks
    frame_valid = torch.cat([torch.ones_like(valid[:, :1]), valid.repeat_interleave(frames_per_chunk, 1)], dim=1)
    error = (video - noisy.video_target[:, :, -asked:]).square().mean((1, 3, 4)) * noisy.video_weight[:, -asked:]
    return Losses(_mean_of_items(error, frame_valid[:, -asked:]), action_part)


@torch.no_grad()
def ignore_padding(transformer: WorldActionTransformer, action_valid: Tensor) -> None:
    """Make the network silent about action columns that the contract does not use. No gradient changes that later."""
    last = transformer.action_decoder.layer2
    last.W[..., ~action_valid] = 0
    last.b[..., ~action_valid] = 0


@torch.no_grad()
def silence_video(transformer: WorldActionTransformer) -> None:
    """Make the network say velocity 0 for the video; without video loss no gradient changes that later."""
    transformer.proj_out.weight.zero_()
    transformer.proj_out.bias.zero_()


def _mean_of_items(error: Tensor, valid: Tensor) -> Tensor:
    """Mean over each item's valid entries, then over items; [B, N] both."""
    return (torch.where(valid > 0, error, 0.0).sum(1) / valid.sum(1)).mean()
