"""Pointing: where in a picture is what an instruction names? The exercise that a training from nothing begins with.

The text asks and the picture's patches answer, twice over:

* the *encoders* alone, through a small :class:`Pointer`. The pooled features of a prompt are compared with the features
  of every patch; the patches that hold what is meant must win, each view that shows it as well as any other, and say
  where in them it lies. Every patch must also say where on the canvas it is itself: what is in it can be told without,
  and is of no use without. So words come to name what they mean, and patches to know what is in them and where;
* the *transformer*, through its own attention, in the pass that training and serving make: tokens of a chunk's actions
  among the clean frame, the noisy ones and the state. Alone they could learn it as well, and would not look any more
  once the others are there. From the second layer on, when text was read, one head of every layer must look at the
  patch in the first view that shows what is meant, and what the layer takes from the picture must say where it is, as
  must a token after the last layer (:class:`Place`). One view, since the mean of two places is neither. This is the way
  that the actions of a chunk have to go: read what is named, find it, move there.

Both heads are not kept.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamzero_policy.model.blocks import WorldActionBlock
from dreamzero_policy.runtime.embodiment import Floats
from dreamzero_policy.training.window_pass import Look

PLACE_WEIGHT = 2.0
WHERE_WEIGHT = 10.0  # errors in widths of the canvas are small numbers
LOOKING_HEAD = 0  # of every layer but the first, which has not read the text yet
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
        self.where = nn.Linear(image_dim, 2)

    def forward(self, text: Tensor, mask: Tensor, image: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Q questions about B pictures of G × G patches.

        Args:
            text: features [Q, N, text_dim] and their mask [Q, N], 1 on real tokens.
            image: features [B, 1 + G², image_dim], the class token first.
            rows: the picture that each question is about [Q].

        Returns how much each patch is the answer, as logits [Q, G²]; where in it [Q, G², 2]: x to the right and y down
        from its middle, in patches; and where each patch says it is [B, G², 2], in widths and heights of the canvas.
        """
        weight = self.attention(text)[..., 0].masked_fill(mask == 0, -torch.inf).softmax(-1)
        question = self.question((weight[..., None] * text).sum(1))
        patches = self.norm(image[:, 1:])
        logits = torch.einsum("qd,qnd->qn", question, self.answer(patches)[rows]) / WIDTH**0.5
        return logits, self.offset(patches)[rows], self.where(patches)


class Place(nn.Module):
    """Where layers and tokens say that the thing is, x and y in widths and heights of the canvas."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        # one for all layers: they shall say it in one way
        self.taken, self.token = (nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 2)) for _ in range(2))

    def forward(self, taken: Tensor, tokens: Tensor) -> Tensor:
        """What was taken in each layer [K, Q, A, D] and tokens after the last [Q, A, D] to places [K + 1, Q, A, 2]."""
        return torch.cat([self.taken(taken), self.token(tokens)[None]])


def scores_of(looks: Sequence[Look], actions: int) -> Tensor:
    """How much the looking heads of all layers but the first look where: [layers − 1, B, A, M] for A actions."""
    scores = []
    for look in looks[1:] or looks:
        query, key = look.query[:, LOOKING_HEAD, :actions], look.key[:, LOOKING_HEAD]
        scores.append((query @ key.transpose(-1, -2)).float() * query.shape[-1] ** -0.5)
    return torch.stack(scores)


def taken_of(looks: Sequence[Look], blocks: Sequence[WorldActionBlock], actions: int) -> Tensor:
    """What these layers put into the actions' tokens of what they took from the picture: [layers − 1, B, A, D]."""
    taken = [
        F.linear(look.taken[:, :actions], block.attn2.to_out[0].weight).float()
        for look, block in zip(looks, blocks, strict=True)
    ]
    return torch.stack(taken[1:] or taken)


@dataclass(frozen=True, eq=False)
class Targets:
    """What is to be answered. G² patches, row by row."""

    share: Tensor  # [Q, G²] the same for every patch that holds a point, 0 elsewhere; sums to 1
    offset: Tensor  # [Q, G², 2] of the point from its patch's middle, in patches; NaN where there is none
    first: Tensor  # [Q] the patch of the first point
    place: Tensor  # [Q, 2] the first point, in widths and heights of the canvas
    nearest: Tensor  # [Q, G²] whether a patch is as near to a point as to any that the same picture is asked about

    @classmethod
    def of(
        cls,
        points: Sequence[Floats],
        size_px: tuple[int, int],
        grid: int,
        asked: Sequence[Floats] | None = None,
    ) -> "Targets":
        """Points [P, 2] of every question, px, on canvases of `size_px` (height, width) that are seen in grid² patches.

        A canvas is squeezed to the encoder's square before, as `clip_pixels` does it. `asked` are for every question
        the points of all questions about the same picture; by default nothing else is asked about.
        """
        share = np.zeros((len(points), grid**2), np.float32)
        offset = np.full((len(points), grid**2, 2), np.nan, np.float32)
        first = np.zeros(len(points), np.int64)
        for row, places in enumerate(points):
            at = places / size_px[::-1] * grid
            cell = np.minimum(at.astype(int), grid - 1)
            index = cell[:, 1] * grid + cell[:, 0]
            share[row, index], first[row] = 1, index[0]
            offset[row, index] = at - cell - 0.5
        place = np.array([places[0] / size_px[::-1] for places in points], np.float32)
        cells = middles(grid).numpy() * size_px[::-1]
        nearest = [
            distances(cells, own) <= distances(cells, every) for own, every in zip(points, asked or points, strict=True)
        ]
        shares = torch.from_numpy(share / share.sum(1, keepdims=True))
        return cls(shares, *map(torch.from_numpy, (offset, first, place, np.stack(nearest))))

    def on(self, device: torch.device) -> "Targets":
        """The same there."""
        return Targets(*(tensor.to(device) for tensor in vars(self).values()))

    def part(self, questions: Tensor) -> "Targets":
        """Those of some of the questions."""
        return Targets(*(tensor[questions] for tensor in vars(self).values()))


@dataclass(frozen=True)
class Pointed:
    """How well the encoders answered the questions of a batch, their mean."""

    patch: Tensor  # cross entropy of the answer
    offset: Tensor  # absolute error of it, in patches
    hits: Tensor  # share of the questions whose likeliest patch holds a point
    where: Tensor  # absolute error of what patches say about themselves, in widths and heights of the canvas

    @property
    def total(self) -> Tensor:
        return self.patch + self.offset + WHERE_WEIGHT * self.where


@dataclass(frozen=True)
class Looked:
    """How well the transformer answered the questions that it was asked, their mean."""

    look: Tensor  # cross entropy of its looks, mean of layers and tokens
    place: Tensor  # absolute error of what its layers and tokens say, in spreads of all places along each axis
    looks: Tensor  # share of the looks of its last layer that go to the patch of the first point
    things: Tensor  # share of them that are nearer to what is named than to anything else that is asked about

    @property
    def total(self) -> Tensor:
        return self.look + PLACE_WEIGHT * self.place


def pointed(logits: Tensor, offset: Tensor, where: Tensor, targets: Targets) -> Pointed:
    """What the encoders answered to Q questions about B pictures, against the targets.

    `logits` [Q, G²], `offset` [Q, G², 2] and `where` [B, G², 2] are of a :class:`Pointer`.
    """
    somewhere = targets.share > 0
    return Pointed(
        patch=-(targets.share * logits.log_softmax(-1)).sum(-1).mean(),
        offset=(offset[somewhere] - targets.offset[somewhere]).abs().mean(),
        hits=somewhere.gather(1, logits.argmax(-1, keepdim=True)).float().mean(),
        where=(where - middles(math.isqrt(where.shape[1])).to(where.device)).abs().mean(),
    )


def looked(scores: Tensor, place: Tensor, targets: Targets, spread: Tensor) -> Looked:
    """Where the transformer looked for the answer to one question about each of B pictures, against the targets.

    Args:
        scores: of :func:`scores_of`, [layers − 1, B, A, 1 + G²]; place: of a :class:`Place`, [layers, B, A, 2].
        spread: of all places, [2]. Things on a table seen from the front lie far apart from left to right and close
            together in depth; a hand has to be right in both.
    """
    patch = 1 + targets.first[:, None].expand(-1, scores.shape[2])  # [B, A], behind the class token
    likely = scores.log_softmax(-1).gather(-1, patch[None, ..., None].expand(len(scores), -1, -1, 1))
    seen = scores[-1].argmax(-1)  # [B, A]
    return Looked(
        look=-likely.mean(),
        place=((place - targets.place[:, None]).abs() / spread).mean(),
        looks=(seen == patch).float().mean(),
        things=F.pad(targets.nearest, (1, 0)).gather(1, seen).float().mean(),
    )


def spread_of(places: Floats) -> Tensor:
    """Half the way between the quartiles of places [N, 2] along each axis: a few in other views change it little."""
    low, high = np.percentile(places, (25, 75), axis=0)
    return torch.from_numpy(((high - low) / 2).astype(np.float32))


def middles(grid: int) -> Tensor:
    """The middle of every patch [G², 2], row by row: x to the right and y down, in widths and heights of the canvas."""
    at = (torch.arange(grid) + 0.5) / grid
    return torch.stack([at.repeat(grid), at.repeat_interleave(grid)], dim=1)


def distances(cells: Floats, points: Floats) -> Floats:
    """From each of some places [N, 2] to the nearest of the points [P, 2]: [N]."""
    return np.linalg.norm(cells[:, None] - points[None], axis=-1).min(1)
