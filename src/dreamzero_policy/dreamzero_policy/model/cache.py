"""The model's memory: keys and values of the clean past of the video, and of nothing else.

Preallocated for a whole window and filled from the left; ``length`` is a Python int, so that no device is asked for it.
Keys are stored after RMS norm and rotation. Reading and writing are different calls: an observation *appends*, a
denoising step only *joins* its own keys to the past in a copy.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


class CacheFullError(RuntimeError):
    """More tokens were observed than the window holds."""


@dataclass
class KVCache:
    """Keys and values [layers, B, heads, capacity, head_dim]; the first ``length`` tokens are valid."""

    keys: Tensor
    values: Tensor
    length: int = 0

    @classmethod
    def empty(
        cls,
        *,
        layers: int,
        batch: int,
        capacity: int,
        heads: int,
        head_dim: int,
        device: torch.device | str,
        dtype: torch.dtype,
    ) -> KVCache:
        """Room for ``capacity`` tokens, none of them valid yet."""
        shape = (layers, batch, heads, capacity, head_dim)
        return cls(torch.empty(shape, device=device, dtype=dtype), torch.empty(shape, device=device, dtype=dtype))

    @property
    def capacity(self) -> int:
        return self.keys.shape[3]

    @property
    def batch(self) -> int:
        return self.keys.shape[1]

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write one layer's new keys and values [B, heads, L, head_dim] behind the past; return past and new together.

        One row is written to all rows of the cache, and returned as one row. ``length`` moves only with
        :meth:`advance`, once all layers are written.
        Raises :class:`CacheFullError` when the window has no room for L more tokens.
        """
        end = self.length + keys.shape[2]
        if end > self.capacity:
            raise CacheFullError(f"the cache holds {self.capacity} tokens, {self.length} + {keys.shape[2]} do not fit")
        self.keys[layer, :, :, self.length : end] = keys
        self.values[layer, :, :, self.length : end] = values
        rows = keys.shape[0]
        return self.keys[layer, :rows, :, :end], self.values[layer, :rows, :, :end]

    def advance(self, tokens: int) -> None:
        """Declare the tokens written by :meth:`append` in every layer part of the past."""
        self.length += tokens

    def join(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Past and given keys and values in a new tensor; the cache stays as it is.

        Fewer rows than the cache has take the past of its first rows; the caller knows that the others are equal.
        """
        rows = keys.shape[0]
        return (
            torch.cat([self.keys[layer, :rows, :, : self.length], keys], dim=2),
            torch.cat([self.values[layer, :rows, :, : self.length], values], dim=2),
        )

    def clear(self) -> None:
        """Forget everything; the memory is kept."""
        self.length = 0

    def clone(self) -> KVCache:
        """An independent copy."""
        return KVCache(self.keys.clone(), self.values.clone(), self.length)

    @property
    def nbytes(self) -> int:
        return self.keys.nbytes + self.values.nbytes
