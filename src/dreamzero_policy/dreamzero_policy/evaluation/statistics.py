"""Intervals of what was measured: Wilson for success, bootstrap for progress, paired bootstrap for differences.

All are 95 % intervals. Bootstrap is over episodes, by percentiles, with a fixed seed: the same results give the same
interval. In a paired difference both methods had the same scene and task, and a resample takes or leaves both.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

CONFIDENCE = 0.95
RESAMPLES = 10_000
SEED = 0
BATCH = 500  # resamples made at once


@dataclass(frozen=True)
class Interval:
    low: float
    high: float

    def as_list(self) -> list[float]:
        return [self.low, self.high]


@dataclass(frozen=True)
class Estimate:
    """A mean and how well it is known."""

    value: float
    interval: Interval


def wilson(successes: int, episodes: int) -> Interval:
    """Of a rate of success. Raises ValueError unless 0 ≤ successes ≤ episodes and there is at least one episode."""
    interval = binomtest(successes, episodes).proportion_ci(CONFIDENCE, method="wilson")
    return Interval(float(interval.low), float(interval.high))


def success_rate(successes: NDArray[np.bool_]) -> Estimate:
    """Share of episodes [N] that succeeded."""
    count = int(np.count_nonzero(successes))
    return Estimate(count / len(successes), wilson(count, len(successes)))


def mean(values: NDArray[np.float64]) -> Estimate:
    """Mean of values [N], one an episode, N ≥ 1."""
    values = np.asarray(values, dtype=np.float64)
    rng = np.random.default_rng(SEED)
    means = np.concatenate(
        [
            values[rng.integers(len(values), size=(min(BATCH, RESAMPLES - done), len(values)))].mean(axis=1)
            for done in range(0, RESAMPLES, BATCH)
        ]
    )
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(float(values.mean()), Interval(float(low), float(high)))


def paired_difference(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> Estimate:
    """Mean of ours − theirs, episode by episode [N]."""
    return mean(np.asarray(ours, dtype=np.float64) - np.asarray(theirs, dtype=np.float64))
