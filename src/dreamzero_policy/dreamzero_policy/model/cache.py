"""The model's memory: keys and values of the clean past of the video, and of nothing else.

Preallocated for a whole window and filled from the left; ``length`` is a Python int, so that no device is asked for it.
Keys are stored after RMS norm and rotation. Decisions:

* reading and writing are different calls: an observation *appends*, a denoising step only *joins* its own keys to the
  past in a copy;
* the past is never overwritten while somebody may read it, so a fork costs nothing: both caches look at one memory, and
  each sees its own ``length`` tokens of it. The first of them to append writes behind the common past, in place. The
  other then finds the room behind its past taken and moves to a copy of its past (*copy on write*).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dreamzero_policy.model.tokens import rotate


class CacheFullError(RuntimeError):
    """More tokens were observed than the window holds."""


@dataclass
class _Storage:
    """Memory that one or several caches look at: [layers, B, heads, capacity, head_dim]."""

    keys: Tensor
    values: Tensor
    written: int = 0  # tokens that are the past of some cache; room begins here
    shared: bool = False  # more than one cache looked at it

    @classmethod
    def empty_like(cls, other: _Storage) -> _Storage:
        return cls(torch.empty_like(other.keys), torch.empty_like(other.values))

    def copy(self, length: int) -> _Storage:
        """Memory of its own with the first ``length`` tokens."""
        copy = _Storage.empty_like(self)
        copy.keys[:, :, :, :length] = self.keys[:, :, :, :length]
        copy.values[:, :, :, :length] = self.values[:, :, :, :length]
        copy.written = length
        return copy


@dataclass
class KVCache:
    """Keys and values of one past; the first ``length`` tokens of its memory are valid.

    One verb at a time may write: caches that share memory are not for two threads.
    """

    _storage: _Storage
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
        keys, values = (torch.empty(shape, device=device, dtype=dtype) for _ in range(2))
        return cls(_Storage(keys, values))

    @classmethod
    def joined(cls, caches: Sequence[KVCache]) -> KVCache:
        """The pasts of several caches of the same length, side by side in a new one that has no room for more.

        Rows are ordered by branch first: row 0 of every cache, then row 1 of every cache.
        """
        length, batch = caches[0].length, caches[0].batch
        keys, values = (
            torch.cat([part[:, row : row + 1, :, :length] for row in range(batch) for part in parts], dim=1)
            for parts in ([cache.keys for cache in caches], [cache.values for cache in caches])
        )
        return cls(_Storage(keys, values, written=length), length)

    @property
    def keys(self) -> Tensor:
        """[layers, B, heads, capacity, head_dim]."""
        return self._storage.keys

    @property
    def values(self) -> Tensor:
        """[layers, B, heads, capacity, head_dim]."""
        return self._storage.values

    @property
    def capacity(self) -> int:
        return self.keys.shape[3]

    @property
    def batch(self) -> int:
        return self.keys.shape[1]

    @property
    def nbytes(self) -> int:
        return self.keys.nbytes + self.values.nbytes

    # ---------------------------------------------------------------- reading

    def join(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Past and given keys and values in a new tensor; the cache stays as it is.

        Fewer rows than the cache has take the past of its first rows; the caller knows that the others are equal.
        """
        rows = keys.shape[0]
        return (
            torch.cat([self.keys[layer, :rows, :, : self.length], keys], dim=2),
            torch.cat([self.values[layer, :rows, :, : self.length], values], dim=2),
        )

    def fork(self) -> KVCache:
        """A second cache with the same past. Nothing is copied until both of them have written."""
        self._storage.shared = True
        return KVCache(self._storage, self.length)

    def clone(self) -> KVCache:
        """An independent copy, at once."""
        return KVCache(_Storage(self.keys.clone(), self.values.clone(), written=self.length), self.length)

    # ---------------------------------------------------------------- writing

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write one layer's new keys and values [B, heads, L, head_dim] behind the past; return past and new together.

        One row is written to all rows of the cache, and returned as one row. ``length`` moves only with
        :meth:`advance`, once all layers are written.
        Raises :class:`CacheFullError` when the window has no room for L more tokens.
        """
        end = self.length + keys.shape[2]
        if end > self.capacity:
            raise CacheFullError(f"the cache holds {self.capacity} tokens, {self.length} + {keys.shape[2]} do not fit")
        if self._storage.written != self.length:
            self._storage = self._storage.copy(self.length)
        self.keys[layer, :, :, self.length : end] = keys
        self.values[layer, :, :, self.length : end] = values
        rows = keys.shape[0]
        return self.keys[layer, :rows, :, :end], self.values[layer, :rows, :, :end]

    def advance(self, tokens: int) -> None:
        """Declare the tokens written by :meth:`append` in every layer part of the past."""
        self.length += tokens
        self._storage.written = self.length

    def forget(self, start: int, stop: int, turn: Tensor) -> None:
        """Remove the tokens from ``start`` up to ``stop``; those behind them move up.

        Moving up changes their position: ``turn`` [1 or L, head_dim / 2] is the phase by which their keys are turned.
        One pass over the memory, a layer at a time.
        """
        if self._storage.shared or self._storage.written != self.length:
            self._storage = self._storage.copy(self.length)
        end = start + self.length - stop
        for keys, values in zip(self.keys, self.values, strict=True):
            keys[:, :, start:end] = rotate(keys[:, :, stop : self.length], turn)
            values[:, :, start:end] = values[:, :, stop : self.length].clone()
        self.length = self._storage.written = end

    def clear(self) -> None:
        """Forget everything. The memory is kept, unless another cache may still look at it."""
        if self._storage.shared:
            self._storage = _Storage.empty_like(self._storage)
        self.length = self._storage.written = 0
