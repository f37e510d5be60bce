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


def of_rows(values: NDArray) -> Table:
    """Statistics of the columns of rows [N, W] (or of [N], one column)."""
    values = np.asarray(values, np.float64).reshape(len(values), -1)
    table = {name: getattr(values, name)(axis=0).tolist() for name in ("min", "max", "mean", "std")}
    quantiles = np.quantile(values, list(QUANTILES.values()), axis=0)
    return table | {"count": [len(values)]} | dict(zip(QUANTILES, quantiles.tolist(), strict=True))


def of_pixels(pixels: NDArray, images: int) -> Table:
    """Statistics of the channels of pixels [n, 3] in [0, 1], shaped [3, 1, 1]; the count is that of the images."""
    return {
        name: [images] if name == "count" else [[[value]] for value in values]
        for name, values in of_rows(pixels).items()
    }


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
