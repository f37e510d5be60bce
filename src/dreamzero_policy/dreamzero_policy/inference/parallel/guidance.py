"""Guidance on two processes: one computes the prompt's branch, the other the negative prompt's.

Each process makes the same calls of its transformer, guidance on. Of the two rows that guidance needs, its transformer
computes and caches one; after every denoising call the two velocities are exchanged, and both processes go on with the
same numbers. The group's first process has the prompt. The exchange is one all_gather, which gloo and NCCL have; it has
been run with gloo only.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.distributed as distributed
from torch import Tensor

from dreamzero_policy.model.blocks import KeyValue
from dreamzero_policy.model.cache import KVCache
from dreamzero_policy.model.transformer import Context, WorldActionTransformer

BRANCHES = 2


def split_guidance(transformer: WorldActionTransformer, group: distributed.ProcessGroup | None = None) -> None:
    """Let this process's transformer compute its own branch of guidance only, in place.

    ``group`` has two processes; default is the default group. From then on text comes with 2 B rows, prompts first, as
    guidance in one process has it; :meth:`denoise` returns 2 B rows. All processes of the group must make the same
    calls in the same order.

    Raises ValueError for a group of another size.
    """
    ranks = distributed.get_world_size(group)
    if ranks != BRANCHES:
        raise ValueError(f"guidance has {BRANCHES} branches, the process group has {ranks} ranks")
    branch = _Branch(transformer, group)
    transformer.encode_text = branch.encode_text
    transformer.empty_cache = branch.empty_cache
    transformer.observe = branch.observe
    transformer.denoise = branch.denoise


class _Branch:
    """The verbs of a transformer for one of two branches."""

    def __init__(self, transformer: WorldActionTransformer, group: distributed.ProcessGroup | None) -> None:
        self._group, self._rank = group, distributed.get_rank(group)
        self._encode_text, self._empty_cache = transformer.encode_text, transformer.empty_cache
        self._observe, self._denoise = transformer.observe, transformer.denoise

    def encode_text(self, text: Tensor) -> tuple[KeyValue, ...]:
        if len(text) % BRANCHES:
            raise ValueError(f"guidance needs prompts and as many negative prompts, got {len(text)} rows of text")
        return self._encode_text(text.chunk(BRANCHES)[self._rank])

    def empty_cache(self, *, batch: int, **sizes: int) -> KVCache:
        return self._empty_cache(batch=batch // BRANCHES, **sizes)

    def observe(
        self, cache: KVCache, context: Context, latents: Tensor, condition: Tensor | None, *, first_frame: int
    ) -> None:
        rows = cache.batch
        self._observe(
            cache,
            self._own_context(context, rows),
            self._own(latents, rows),
            None if condition is None else self._own(condition, rows),
            first_frame=first_frame,
        )

    def denoise(
        self,
        cache: KVCache,
        context: Context,
        latents: Tensor,
        condition: Tensor | None,
        action: Tensor,
        state: Tensor,
        **options: Any,
    ) -> tuple[Tensor, Tensor]:
        rows = cache.batch
        for name in ("video_time", "action_time"):
            if isinstance(options[name], Tensor):
                options[name] = self._own(options[name].reshape(-1), rows)
        video, action = self._denoise(
            cache,
            self._own_context(context, rows),
            self._own(latents, rows),
            None if condition is None else self._own(condition, rows),
            self._own(action, rows),
            self._own(state, rows),
            **options,
        )
        return self._exchange(video, action)

    def _exchange(self, video: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Both branches' velocities, prompts first; one collective for both tensors."""
        own = torch.cat([video.flatten(), action.flatten()])
        every = [torch.empty_like(own) for _ in range(BRANCHES)]
        distributed.all_gather(every, own, group=self._group)
        parts = [one.split([video.numel(), action.numel()]) for one in every]
        return (
            torch.cat([part[0].view_as(video) for part in parts]),
            torch.cat([part[1].view_as(action) for part in parts]),
        )

    def _own(self, tensor: Tensor, rows: int) -> Tensor:
        """This branch's half of 2 B rows; a tensor with B rows or one serves both branches."""
        return tensor.chunk(BRANCHES)[self._rank] if len(tensor) == BRANCHES * rows else tensor

    def _own_context(self, context: Context, rows: int) -> Context:
        if context.image is None or len(context.image[0].key) != BRANCHES * rows:
            return context
        own = tuple(KeyValue(self._own(kv.key, rows), self._own(kv.value, rows)) for kv in context.image)
        return replace(context, image=own)
