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
    """Keys and values [layers, B, capacity, heads, head_dim]; the first ``length`` tokens are valid."""

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
        shape = (layers, batch, capacity, heads, head_dim)
        return cls(torch.empty(shape, device=device, dtype=dtype), torch.empty(shape, device=device, dtype=dtype))

    @property
    def capacity(self) -> int:
        return self.keys.shape[2]

    @property
    def batch(self) -> int:
        return self.keys.shape[1]

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write one layer's new keys and values [B, L, H, D] behind the past and return past and new together.

        ``length`` moves only with :meth:`advance`, once all layers are written.
        Raises :class:`CacheFullError` when the window has no room for L more tokens.
        """
        end = self.length + keys.shape[1]
        if end > self.capacity:
            raise CacheFullError(f"the cache holds {self.capacity} tokens; {self.length} + {keys.shape[1]} were asked for")
        self.keys[layer, :, self.length : end] = keys
        self.values[layer, :, self.length : end] = values
        return self.keys[layer, :, :end], self.values[layer, :, :end]

    def advance(self, tokens: int) -> None:
        """Declare the tokens written by :meth:`append` in every layer part of the past."""
        self.length += tokens

    def join(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Past and given keys and values in a new tensor; the cache stays as it is."""
        past = slice(0, self.length)
        return (
            torch.cat([self.keys[layer, :, past], keys], dim=1),
            torch.cat([self.values[layer, :, past], values], dim=1),
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
