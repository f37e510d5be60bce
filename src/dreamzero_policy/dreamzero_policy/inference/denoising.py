"""From noise to one chunk: the transformer's velocity, guided, along the schedules of video and actions.

The functions here take B rows; a session is the case B = 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dreamzero_policy.model.blocks import KeyValue
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


@dataclass(frozen=True)
class Denoising:
    """One chunk that is to be denoised: everything that takes, gathered before anything is computed.

    Fields as the arguments of :func:`denoise_chunk` for one row; ``evaluations`` as :func:`evaluation_rule` takes them.
    """

    cache: KVCache
    context: Context
    condition: Tensor | None
    state: Tensor
    video: Tensor
    action: Tensor
    first_frame: int
    steps: int
    evaluations: int | str
    cfg_scale: float
    shift: float
    video_final_noise: float | None
    state_attention: str
    prefix: ActionPrefix | None

    def run(self, transformer: WorldActionTransformer) -> Sample:
        """Denoise it for itself."""
        return denoise_chunk(
            transformer,
            self.cache,
            self.context,
            condition=self.condition,
            state=self.state,
            video=self.video,
            action=self.action,
            prefix=self.prefix,
            **self._common(),
        )

    @property
    def company(self) -> tuple | None:
        """What others must have the same of to be denoised together with this one; None if it goes alone."""
        if self.prefix is not None or isinstance(self.evaluations, str):
            return None
        common = (self.steps, self.evaluations, self.cfg_scale, self.shift, self.video_final_noise)
        return (*common, self.state_attention, self.first_frame, self.cache.length, self.video.shape, self.action.shape)

    def _common(self) -> dict[str, Any]:
        return {
            "first_frame": self.first_frame,
            "steps": self.steps,
            "evaluated": evaluation_rule(self.steps, self.evaluations),
            "cfg_scale": self.cfg_scale,
            "shift": self.shift,
            "video_final_noise": self.video_final_noise,
            "state_attention": self.state_attention,
        }


def denoise_together(transformer: WorldActionTransformer, chunks: Sequence[Denoising]) -> list[Sample]:
    """Chunks of several sessions, which have the same `company`, in one batch; a sample of one row for each.

    Equal to denoising each for itself up to the rounding of larger matrix products: sums run in another order, so the
    last bits differ. A test holds the difference below 1e-4 in float32.
    """
    branches = 1 if chunks[0].cfg_scale == 1.0 else 2

    def rows(parts: Sequence[Tensor]) -> Tensor:
        """[n, …] of every chunk: all prompts first, then all negative prompts."""
        if len(parts[0]) == 1:
            return torch.cat(list(parts))
        return torch.cat([part[branch : branch + 1] for branch in range(branches) for part in parts])

    def layers(contexts: Sequence[tuple[KeyValue, ...]]) -> tuple[KeyValue, ...]:
        return tuple(
            KeyValue(rows([kv.key for kv in layer]), rows([kv.value for kv in layer]))
            for layer in zip(*contexts, strict=True)
        )

    def image_layers(contexts: Sequence[tuple[KeyValue, ...]]) -> tuple[KeyValue, ...]:
        """One row of an image serves both branches; of several images every branch needs its own."""
        joined = layers(contexts)
        if branches == 1 or len(joined[0].key) == branches * len(contexts):
            return joined
        return tuple(KeyValue(both_branches(kv.key), both_branches(kv.value)) for kv in joined)

    first = chunks[0]
    image = None if first.context.image is None else image_layers([chunk.context.image for chunk in chunks])
    sample = denoise_chunk(
        transformer,
        KVCache.joined([chunk.cache for chunk in chunks]),
        Context(layers([chunk.context.text for chunk in chunks]), image),
        condition=None if first.condition is None else torch.cat([chunk.condition for chunk in chunks]),
        state=torch.cat([chunk.state for chunk in chunks]),
        video=torch.cat([chunk.video for chunk in chunks]),
        action=torch.cat([chunk.action for chunk in chunks]),
        **first._common(),
    )
    return [
        Sample(video, action, sample.evaluations, expected)
        for video, action, expected in zip(
            sample.video.split(1), sample.action.split(1), sample.expected.split(1), strict=True
        )
    ]


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
