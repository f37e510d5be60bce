"""Alignment: which row or frame of a recording stands for an instant.

The rule is the observation buffer's (`runtime.observation.Stream.nearest`): the nearest stamp, the earlier one of two
that tie, and nothing that is farther away than the tolerance. What is missing is an error that names the instant and
the gap; nothing is repeated or interpolated. Pure numpy.
"""

import numpy as np
from numpy.typing import NDArray

from dreamzero_policy.data.episodes import EpisodeError
from dreamzero_policy.runtime.embodiment import Floats

GRAIN_S = 1e-6  # stamps of data sets are float32 seconds; the tolerance is not decided by their rounding


def nearest(stamps: Floats, instants: Floats, tolerance_s: float, what: str) -> NDArray[np.int64]:
    """Index of the stamp that stands for each instant, both in seconds.

    Args:
        stamps: rising [N].
        instants: [T].
        tolerance_s: how far a stamp may be from its instant.
        what: episode and field, for the error.

    Raises:
        EpisodeError: the stamps do not rise, or an instant has none within the tolerance.
    """
    require_rising(stamps, what)
    if not len(stamps):
        raise EpisodeError(f"{what}: nothing was recorded")
    right = np.clip(np.searchsorted(stamps, instants), 1, max(1, len(stamps) - 1))
    left = right - 1
    right = np.minimum(right, len(stamps) - 1)
    chosen = np.where(np.abs(stamps[right] - instants) < np.abs(stamps[left] - instants), right, left)
    gaps = stamps[chosen] - instants
    if (far := np.flatnonzero(np.abs(gaps) > tolerance_s + GRAIN_S)).size:
        worst = far[0]
        raise EpisodeError(
            f"{what}: nothing at {instants[worst]:.3f} s, the nearest is {1e3 * gaps[worst]:+.1f} ms away, "
            f"tolerance {1e3 * tolerance_s:.1f} ms"
        )
    return chosen


def require_rising(stamps: Floats, what: str) -> None:
    """Raises EpisodeError unless every stamp is finite and later than the one before."""
    if not np.isfinite(stamps).all():
        raise EpisodeError(f"{what}: stamp {np.flatnonzero(~np.isfinite(stamps))[0]} is not finite")
    if (falls := np.flatnonzero(np.diff(stamps) <= 0)).size:
        at = falls[0]
        raise EpisodeError(
            f"{what}: stamps do not increase, {stamps[at]:.6f} s is followed by {stamps[at + 1]:.6f} s (row {at + 1})"
        )


def grid(first_s: float, last_s: float, rate_hz: float) -> Floats:
    """Instants of the action steps from the first stamp on, none later than the last stamp."""
    return first_s + np.arange(int((last_s - first_s) * rate_hz + 1e-3) + 1) / rate_hz
