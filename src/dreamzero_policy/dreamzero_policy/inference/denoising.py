"""From noise to one chunk: the transformer's velocity, guided, along the schedules of video and actions.

The functions here take B rows; a session is the case B = 1.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dreamzero_policy.model.cache import KVCache
from dreamzero_policy.model.flow import (
    EvaluationRule,
    KnownActions,
    Sample,
    SkipWhileSteady,
    evaluated_steps,
    guide,
    sample_chunk,
    sampling_schedule,
)
from dreamzero_policy.model.transformer import Context, WorldActionTransformer
from dreamzero_policy.runtime.policy import ActionPrefix

DYNAMIC = "dynamic"


def evaluation_rule(steps: int, evaluations: int | str) -> frozenset[int] | EvaluationRule:
    """Which steps of one chunk are evaluated: a number of them, or ``dynamic`` for skips while the velocity is steady.

    A dynamic rule has state; it serves one chunk.
    Raises ValueError for another word, or a number that the schedule does not know.
    """
    if evaluations == DYNAMIC:
        return SkipWhileSteady(steps)
    if isinstance(evaluations, str):
        raise ValueError(f"evaluations is {evaluations!r}, expected a number or {DYNAMIC!r}")
    return evaluated_steps(steps, evaluations)


def denoise_chunk(
    transformer: WorldActionTransformer,
    cache: KVCache,
    context: Context,
    *,
    condition: Tensor | None,
    state: Tensor,
    video: Tensor,
    action: Tensor,
    first_frame: int,
    steps: int,
    evaluated: frozenset[int] | EvaluationRule,
    cfg_scale: float,
    shift: float,
    video_final_noise: float | None,
    state_attention: str,
    prefix: ActionPrefix | None = None,
) -> Sample:
    """From noise to a chunk: ``video`` [B, C, f, H, W] and ``action`` [B, A, D] float32, noise in and samples out.

    ``condition`` [B, 4 + C, f, H, W] and ``state`` [B, 1, D] belong to the chunk. The cache is only read.

    With a guidance scale other than 1 the text of the context, and the cache, have 2 B rows: the B prompts, then the B
    negative prompts. Image keys and values have one row for all, or as many rows as the text.

    The held rows of a ``prefix`` stand in the chunk at every step with as much noise as the others, made of ``action``
    itself, and come out as they are given; its soft ones draw the chunk. No evaluation is added. The prefix is the same
    for all B rows of the batch.
    Raises ValueError for a prefix that does not fit into the chunk or is not finite.
    """
    dtype = state.dtype
    guided = cfg_scale != 1.0
    if guided and len(video) > 1:  # a single row serves both branches until they part inside the network
        state, condition = both_branches(state), None if condition is None else both_branches(condition)

    def velocity(video: Tensor, action: Tensor, video_time: int, action_time: int) -> tuple[Tensor, Tensor]:
        if len(video) != len(state):
            video, action = both_branches(video), both_branches(action)
        video_velocity, action_velocity = transformer.denoise(
            cache,
            context,
            video.to(dtype),
            condition,
            action.to(dtype),
            state,
            first_frame=first_frame,
            video_time=video_time,
            action_time=action_time,
            state_attention=state_attention,
        )
        video_velocity, action_velocity = video_velocity.float(), action_velocity.float()
        return guide(video_velocity, action_velocity, cfg_scale) if guided else (video_velocity, action_velocity)

    return sample_chunk(
        velocity,
        video,
        action,
        video_schedule=sampling_schedule(steps, shift, video_final_noise or 0.0),
        action_schedule=sampling_schedule(steps, shift),
        evaluated=evaluated,
        known=None if prefix is None else known_actions(prefix, action),
    )


def known_actions(prefix: ActionPrefix, action: Tensor) -> KnownActions:
    """A prefix where the noise ``action`` [B, A, D] is.

    Raises ValueError for more rows than A, more soft ones than rows, columns that are not D's or stand there twice,
    another shape, or values that are not finite.
    """
    rows, columns = np.asarray(prefix.rows, np.float32), np.asarray(prefix.columns, np.int64)
    most, width = action.shape[1:]
    if columns.ndim != 1 or rows.ndim != 2 or len(rows) > most or rows.shape[1] != len(columns):
        raise ValueError(
            f"a prefix has rows [k, n] with k ≤ {most} and columns [n], "
            f"got {list(rows.shape)} and {list(columns.shape)}"
        )
    if not 0 <= prefix.soft_rows <= len(rows):
        raise ValueError(f"{prefix.soft_rows} of the {len(rows)} rows of a prefix cannot be soft")
    if len(np.unique(columns)) < len(columns) or ((columns < 0) | (columns >= width)).any():
        raise ValueError(f"the columns of a prefix are some of 0 to {width - 1}, each once; got {columns.tolist()}")
    if not np.isfinite(rows).all():
        broken = np.flatnonzero(~np.isfinite(rows).all(1))
        raise ValueError(f"the prefix has values that are not finite in rows {broken}")
    values = (rows, columns, soft_weights(prefix.soft_rows))
    return KnownActions(*(torch.from_numpy(value).to(action.device) for value in values))


def soft_weights(count: int) -> np.ndarray:
    """[count] float32 from almost 1 to almost 0: the soft mask of real-time chunking (arXiv 2506.07339, eq. 5)."""
    falling = np.arange(count, 0, -1) / (count + 1)
    return (falling * np.expm1(falling) / np.expm1(1)).astype(np.float32)


def both_branches(rows: Tensor) -> Tensor:
    """B rows for the prompts, and the same B rows for the negative prompts."""
    return torch.cat([rows, rows])
