"""What a session gives back: what it observed and what it predicts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor


@dataclass(frozen=True)
class Observation:
    """What one observation did.

    ``latents`` [C, f, h, w] are the normalised latents that entered the cache: 1 frame when a window opened, else a
    block. ``window`` counts the windows since the reset, ``chunk_index`` the block that may be predicted next.
    """

    epoch: int
    window: int
    window_opened: bool
    chunk_index: int
    latents: Tensor
    timings_s: dict[str, float]


@dataclass(frozen=True)
class Prediction:
    """One chunk.

    ``actions`` [actions_per_chunk, max_action_dim] float32 are normalised; row i is meant for i action steps after the
    last observed frame. ``video_latents`` [C, f, h, w] float32 are the predicted latents, ``expected_latents`` the mean
    of all that may come, of which those are one sample, and ``past_latents`` the observed ones that they continue.
    ``evaluations`` counts the velocities computed in ``steps`` steps. ``seed`` is None where the noise was given. The
    first ``held_rows`` of the actions are those of a prefix. ``timings_s`` holds the seconds of this prediction
    (``denoise``) and of the observation before it (``encode``, ``observe``).
    """

    actions: np.ndarray
    video_latents: Tensor
    expected_latents: Tensor
    steps: int
    evaluations: int
    cfg_scale: float
    seed: int | None
    epoch: int
    window: int
    chunk_index: int
    first_frame: int
    past_latents: tuple[Tensor, ...]
    held_rows: int
    timings_s: dict[str, float]
