"""Quantiles of endless rows in memory that does not grow, the same in whatever order the rows come.

Each column has a histogram of `BINS` bins whose edges are whole multiples of the bin width. When a value does not fit,
neighbouring bins are merged pairwise and the width doubles, as often as needed; so the width is at most
range / (BINS / 4), and an order statistic is known to half of it (10⁻⁴ of the range and better). Between order
statistics the rule is numpy's (linear). Extremes are exact, so an entry that never changes is that entry.
"""

import numpy as np
from numpy.typing import NDArray

from dreamzero_policy.runtime.embodiment import Floats

BINS = 1 << 16
FINEST = 2.0**-40  # width of a bin before anything is merged


class StreamingQuantiles:
    """Histograms of W columns."""

    def __init__(self, width: int) -> None:
        self.count = 0
        self.low = np.full(width, np.inf)
        self.high = np.full(width, -np.inf)
        self._exponents = np.zeros(width, np.int64)  # bin width = FINEST · 2^exponent
        self._origins = np.zeros(width, np.int64)  # number of the first bin, counted from zero in bins
        self._bins = np.zeros((width, BINS), np.int64)

    def add(self, rows: NDArray) -> None:
        """Rows [N, W] of finite numbers."""
        rows = np.asarray(rows, dtype=np.float64)
        if not len(rows):
            return
        self.low, self.high = np.minimum(self.low, rows.min(0)), np.maximum(self.high, rows.max(0))
        for column in range(rows.shape[1]):
            self._widen(column)
            width = FINEST * 2.0 ** self._exponents[column]
            numbers = np.floor(rows[:, column] / width).astype(np.int64) - self._origins[column]
            self._bins[column] += np.bincount(numbers, minlength=BINS)
        self.count += len(rows)

    def at(self, share: float) -> Floats:
        """The quantile [W] at a share in [0, 1] of everything added."""
        rank = share * (self.count - 1)
        below, part = int(rank), rank - int(rank)
        first = self._order_statistic(below)
        return first + part * (self._order_statistic(min(below + 1, self.count - 1)) - first)

    def _order_statistic(self, rank: int) -> Floats:
        """The values [W] of which `rank` are smaller, to half a bin."""
        if rank == 0:
            return self.low.copy()
        if rank == self.count - 1:
            return self.high.copy()
        numbers = np.array([np.searchsorted(np.cumsum(bins), rank, side="right") for bins in self._bins])
        middles = (self._origins + numbers + 0.5) * FINEST * 2.0**self._exponents
        return np.clip(middles, self.low, self.high)

    def _widen(self, column: int) -> None:
        """Merge bins until low and high lie in them, and move the bins to where they do."""
        exponent = int(self._exponents[column])
        while True:
            width = FINEST * 2.0**exponent
            first, last = int(np.floor(self.low[column] / width)), int(np.floor(self.high[column] / width))
            if last - first < BINS // 2 and max(abs(first), abs(last)) < 1 << 60:
                break
            exponent += 1
        origin = first - BINS // 4
        merged, old = int(exponent - self._exponents[column]), self._bins[column]
        inside = origin <= self._origins[column] and last < self._origins[column] + BINS
        if merged == 0 and inside and self.count:
            return
        filled = np.flatnonzero(old)
        fresh = np.zeros(BINS, np.int64)
        np.add.at(fresh, ((filled + self._origins[column]) >> merged) - origin, old[filled])
        self._bins[column], self._origins[column], self._exponents[column] = fresh, origin, exponent
