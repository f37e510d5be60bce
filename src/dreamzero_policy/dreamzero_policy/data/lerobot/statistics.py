"""The statistics that LeRobot keeps with every episode and every data set: min, max, mean, std, count and quantiles.

They are for other readers; this runtime's own are in `data.quantiles`. Of several episodes they are combined as LeRobot
combines them: moments by count, quantiles as the envelope of the episodes' (lower ones by min, upper ones by max).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
Table = dict[str, Any]  # name of the statistic → nested lists
LEVELS = 256  # of a channel


def of_rows(values: NDArray) -> Table:
    """Statistics of the columns of rows [N, W] (or of [N], one column)."""
    values = np.asarray(values, np.float64).reshape(len(values), -1)
    table = {name: getattr(values, name)(axis=0).tolist() for name in ("min", "max", "mean", "std")}
    by_column = [np.quantile(column, list(QUANTILES.values())) for column in values.T]  # a copy of one at a time
    return table | {"count": [len(values)]} | dict(zip(QUANTILES, np.transpose(by_column).tolist(), strict=True))


class PixelCounts:
    """How often each of the 256 levels was seen in each channel: all there is to know, in memory that does not grow."""

    def __init__(self) -> None:
        self.images = 0
        self._counts = np.zeros((3, LEVELS), np.int64)

    def add(self, image: NDArray[np.uint8]) -> None:
        """An RGB image [height, width, 3], thinned to at most 128 lines and columns."""
        thinned = image[:: max(1, len(image) // 128), :: max(1, image.shape[1] // 128)]
        for counts, channel in zip(self._counts, thinned.reshape(-1, 3).T, strict=True):
            counts += np.bincount(channel, minlength=LEVELS)
        self.images += 1

    def table(self) -> Table:
        """Statistics of the channels in [0, 1], shaped [3, 1, 1]; the count is that of the images."""
        values = np.arange(LEVELS) / (LEVELS - 1)
        columns: dict[str, list[float]] = {name: [] for name in ("min", "max", "mean", "std", *QUANTILES)}
        for counts in self._counts:
            seen, total = np.flatnonzero(counts), counts.sum()
            mean = (counts * values).sum() / total
            columns["min"].append(values[seen[0]])
            columns["max"].append(values[seen[-1]])
            columns["mean"].append(mean)
            columns["std"].append(np.sqrt((counts * (values - mean) ** 2).sum() / total))
            ranks = np.array(list(QUANTILES.values())) * (total - 1)
            upto = np.cumsum(counts)
            below = values[np.searchsorted(upto, np.floor(ranks), side="right")]
            above = values[np.searchsorted(upto, np.ceil(ranks), side="right")]
            for name, value in zip(QUANTILES, below + (ranks - np.floor(ranks)) * (above - below), strict=True):
                columns[name].append(value)
        table: Table = {name: [[[float(value)]] for value in column] for name, column in columns.items()}
        return table | {"count": [self.images]}


def combined(tables: Sequence[Table]) -> Table:
    """Statistics of everything that the tables describe."""
    stacked = {name: np.array([table[name] for table in tables]) for name in tables[0]}
    count = stacked["count"].reshape(-1, *(1,) * (stacked["mean"].ndim - 1))
    mean = (stacked["mean"] * count).sum(0) / count.sum(0)
    variance = ((stacked["std"] ** 2 + (stacked["mean"] - mean) ** 2) * count).sum(0) / count.sum(0)
    low = {name: stacked[name].min(0) for name in ("min", "q01", "q10", "q50")}
    high = {name: stacked[name].max(0) for name in ("max", "q90", "q99")}
    whole = low | high | {"mean": mean, "std": np.sqrt(variance), "count": stacked["count"].sum(0)}
    return {name: whole[name].tolist() for name in tables[0]}
