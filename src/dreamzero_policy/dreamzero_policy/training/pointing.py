"""Pointing: where in a picture is what an instruction names? The exercise that the condition encoders begin with.

The text asks and the picture's patches answer. The pooled features of a prompt are compared with the features of every
patch; the patches that hold what is meant must win, each view that shows it as well as any other, and say where in
them it lies. What is learned that way is what a policy needs of the two encoders: words that name what they mean, and
patches that know what is in them and where. The head is small, so that they have to do it, and is not kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from dreamzero_policy.runtime.embodiment import Floats

WIDTH = 128  # of the space in which questions and answers meet


class Pointer(nn.Module):
    """The head."""

    def __init__(self, text_dim: int, image_dim: int) -> None:
        super().__init__()
        self.attention = nn.Linear(text_dim, 1)  # how much a token counts in the question
        self.question = nn.Sequential(nn.LayerNorm(text_dim), nn.Linear(text_dim, WIDTH))
        self.norm = nn.LayerNorm(image_dim)
        self.answer = nn.Linear(image_dim, WIDTH)
        self.offset = nn.Sequential(nn.Linear(image_dim, WIDTH), nn.GELU(), nn.Linear(WIDTH, 2))

    def forward(self, text: Tensor, mask: Tensor, image: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Q questions about B pictures of G × G patches.

        Args:
            text: features [Q, N, text_dim] and their mask [Q, N], 1 on real tokens.
            image: features [B, 1 + G², image_dim], the class token first.
            rows: the picture that each question is about [Q].

        Returns how much each patch is the answer, as logits [Q, G²], and where in it [Q, G², 2]: x to the right and y
        down from its middle, in patches.
        """
        weight = self.attention(text)[..., 0].masked_fill(mask == 0, -torch.inf).softmax(-1)
        question = self.question((weight[..., None] * text).sum(1))
        patches = self.norm(image[:, 1:])
        logits = torch.einsum("qd,qnd->qn", question, self.answer(patches)[rows]) / WIDTH**0.5
        return logits, self.offset(patches)[rows]


@dataclass(frozen=True, eq=False)
class Targets:
    """What is to be answered. G² patches, row by row."""

    share: Tensor  # [Q, G²] the same for every patch that holds a point, 0 elsewhere; sums to 1
    offset: Tensor  # [Q, G², 2] of the point from its patch's middle, in patches; NaN where there is none

    @classmethod
    def of(cls, points: Sequence[Floats], size_px: tuple[int, int], grid: int) -> "Targets":
        """Points [P, 2] of every question, px, on canvases of `size_px` (height, width) that are seen in grid² patches.

        A canvas is squeezed to the encoder's square before, as `clip_pixels` does it.
        """
        share = np.zeros((len(points), grid**2), np.float32)
        offset = np.full((len(points), grid**2, 2), np.nan, np.float32)
        for row, places in enumerate(points):
            at = places / size_px[::-1] * grid
            cell = np.minimum(at.astype(int), grid - 1)
            index = cell[:, 1] * grid + cell[:, 0]
            share[row, index] = 1
            offset[row, index] = at - cell - 0.5
        return cls(torch.from_numpy(share / share.sum(1, keepdims=True)), torch.from_numpy(offset))


@dataclass(frozen=True)
class Pointed:
    """How well the questions of a batch were answered, their mean."""

    patch: Tensor  # cross entropy
    offset: Tensor  # absolute error, in patches
    hits: Tensor  # share of the questions whose likeliest patch holds a point

    @property
    def total(self) -> Tensor:
        return self.patch + self.offset


def pointed(logits: Tensor, offset: Tensor, targets: Targets) -> Pointed:
    """What the head said, against the targets."""
    somewhere = targets.share > 0
    return Pointed(
        -(targets.share * logits.log_softmax(-1)).sum(-1).mean(),
        (offset[somewhere] - targets.offset[somewhere]).abs().mean(),
        somewhere.gather(1, logits.argmax(-1, keepdim=True)).float().mean(),
    )
