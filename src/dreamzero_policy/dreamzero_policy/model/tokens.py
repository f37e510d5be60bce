"""Which token is what: two integers per token decide visibility and rotary position.

A token belongs to a *stream* (clean video, noisy video, action, state) and to a *chunk*. Chunk 0 is the first latent
frame alone; chunk i ≥ 1 holds ``frames_per_chunk`` latent frames, the actions and the state of one prediction. Who sees
whom follows from these two integers (:func:`visibility`), and so does the rotary position:

* video: latent frame index in the window, row, column, over three parts of the head;
* action: running index over the window, over the whole head;
* state: running chunk index, over the whole head.

Angles are computed in float64 and kept as unit complex numbers in float32 (adjacent pairs of a head are one number).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

CLEAN, NOISY, ACTION, STATE = range(4)
ROPE_BASE = 10000.0


@dataclass(frozen=True)
class Tokens:
    """A sequence of L tokens. ``phase`` turns a head by the token's position."""

    stream: Tensor  # [L] int64
    chunk: Tensor  # [L] int64
    phase: Tensor  # [L, head_dim / 2] complex64

    def __len__(self) -> int:
        return self.stream.shape[0]

    @staticmethod
    def join(*parts: Tokens) -> Tokens:
        """One sequence after the other."""
        return Tokens(
            torch.cat([part.stream for part in parts]),
            torch.cat([part.chunk for part in parts]),
            torch.cat([part.phase for part in parts]),
        )


def visibility(query: Tokens, key: Tokens, state_attention: str) -> Tensor:
    """Who sees whom: bool [Lq, Lk], true where the query token attends to the key token.

    ::

                       clean frame 0  clean 1  clean 2 | noisy 1  action 1  state 1 | noisy 2  action 2  state 2
        clean chunk 2        x           x        x    |                            |
        noisy chunk 2        x           x             |                            |    x        x         x
        action chunk 2       x           x             |                            |    x        x         x
        state 2, training                              |                            |                       x
        state 2, release     x           x             |                            |    x        x         x

    Clean video sees the clean past and its own chunk. What is being generated sees the clean past and everything noisy
    of its own chunk, never an earlier action or state. The released weights were trained with a state that sees itself
    alone (``training``) and are served with a state that sees what its chunk sees (``release``).
    """
    q, k = query.stream[:, None], key.stream[None, :]
    past = key.chunk[None, :] < query.chunk[:, None]
    now = key.chunk[None, :] == query.chunk[:, None]
    clean = (q == CLEAN) & (k == CLEAN) & (past | now)
    generated = (q != CLEAN) & torch.where(k == CLEAN, past, now)
    if state_attention == "training":
        generated &= (q != STATE) | ((k == STATE) & now)
    elif state_attention != "release":
        raise ValueError(f"state_attention is {state_attention!r}, expected 'release' or 'training'")
    return clean | generated


@dataclass(frozen=True)
class TokenLayout:
    """Builds token sequences of one model. Hashable, so that sequences are built once and reused."""

    frames_per_chunk: int
    actions_per_chunk: int
    head_dim: int

    def video(
        self, stream: int, first_frame: int, frames: int, rows: int, columns: int, device: torch.device
    ) -> Tokens:
        """Video tokens of the latent frames ``first_frame`` …, ordered frame, row, column."""
        return _video(self, stream, first_frame, frames, rows, columns, device)

    def actions(self, first_chunk: int, chunks: int, device: torch.device) -> Tokens:
        """Action tokens of the chunks ``first_chunk`` … (chunks count from 1)."""
        return _control(self, ACTION, self.actions_per_chunk, first_chunk, chunks, device)

    def states(self, first_chunk: int, chunks: int, device: torch.device) -> Tokens:
        """State tokens, one per chunk."""
        return _control(self, STATE, 1, first_chunk, chunks, device)

    def window(self, frames: int, rows: int, columns: int, device: torch.device) -> Tokens:
        """The teacher-forcing sequence ``[clean video | noisy video | actions | states]`` of a whole window."""
        return _window(self, frames, rows, columns, device)

    def chunk(self, first_frame: int, frames: int, rows: int, columns: int, device: torch.device) -> Tokens:
        """The denoising sequence ``[noisy video | actions | state]`` of one chunk."""
        return _chunk(self, first_frame, frames, rows, columns, device)

    def chunk_of_frame(self, frame: int) -> int:
        """0 for the first latent frame, then 1, 2, …"""
        return (frame + self.frames_per_chunk - 1) // self.frames_per_chunk

    def shift(self, frames: int, device: torch.device) -> Tensor:
        """The phase [1, head_dim / 2] that moves a rotated video key by ``frames`` latent frames, row and column kept.

        Rotations by angles add up, so turning a stored key on is rotating it afresh at its new position.
        """
        time, space = self.video_split
        angles = rotary_angles(torch.tensor([frames], device=device), time)
        return _phase(torch.cat([angles, angles.new_zeros(1, space)], dim=1))

    @property
    def video_split(self) -> tuple[int, int]:
        """How many entries of a head turn with the latent frame, and how many with the row (as many: the column)."""
        space = 2 * (self.head_dim // 6)
        return self.head_dim - 2 * space, space


def rotary_angles(positions: Tensor, dim: int) -> Tensor:
    """Rotary angles [L, dim / 2] float64 of integer positions [L]."""
    exponent = torch.arange(0, dim, 2, dtype=torch.float64, device=positions.device) / dim
    return positions.to(torch.float64)[:, None] * ROPE_BASE**-exponent


def rotate(x: Tensor, phase: Tensor) -> Tensor:
    """Turn the heads of x [B, heads, L, head_dim] by phase [L, head_dim / 2], in float32; dtype and shape are kept."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * phase).flatten(-2).type_as(x)


def _phase(angles: Tensor) -> Tensor:
    return torch.polar(torch.ones_like(angles), angles).to(torch.complex64)


# The builders below are pure functions of integers; the memo leaves the hot loop without them. They run outside
# inference mode because a memoised tensor may be used by a backward pass later.


@lru_cache(maxsize=256)
@torch.inference_mode(False)
def _video(
    layout: TokenLayout, stream: int, first_frame: int, frames: int, rows: int, columns: int, device: torch.device
) -> Tokens:
    index = torch.arange(first_frame, first_frame + frames, device=device)
    frame, row, column = (
        grid.flatten()
        for grid in torch.meshgrid(
            index, torch.arange(rows, device=device), torch.arange(columns, device=device), indexing="ij"
        )
    )
    time, space = layout.video_split
    angles = torch.cat(
        [rotary_angles(frame, time), rotary_angles(row, space), rotary_angles(column, space)],
        dim=1,
    )
    chunk = (frame + layout.frames_per_chunk - 1) // layout.frames_per_chunk
    return Tokens(torch.full_like(chunk, stream), chunk, _phase(angles))


@lru_cache(maxsize=256)
@torch.inference_mode(False)
def _control(
    layout: TokenLayout, stream: int, per_chunk: int, first_chunk: int, chunks: int, device: torch.device
) -> Tokens:
    position = torch.arange((first_chunk - 1) * per_chunk, (first_chunk - 1 + chunks) * per_chunk, device=device)
    phase = _phase(rotary_angles(position, layout.head_dim))
    return Tokens(torch.full_like(position, stream), position // per_chunk + 1, phase)


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def _window(layout: TokenLayout, frames: int, rows: int, columns: int, device: torch.device) -> Tokens:
    chunks = layout.chunk_of_frame(frames - 1)
    return Tokens.join(
        layout.video(CLEAN, 0, frames, rows, columns, device),
        layout.video(NOISY, 0, frames, rows, columns, device),
        layout.actions(1, chunks, device),
        layout.states(1, chunks, device),
    )


@lru_cache(maxsize=256)
@torch.inference_mode(False)
def _chunk(layout: TokenLayout, first_frame: int, frames: int, rows: int, columns: int, device: torch.device) -> Tokens:
    chunk = layout.chunk_of_frame(first_frame)
    return Tokens.join(
        layout.video(NOISY, first_frame, frames, rows, columns, device),
        layout.actions(chunk, 1, device),
        layout.states(chunk, 1, device),
    )
