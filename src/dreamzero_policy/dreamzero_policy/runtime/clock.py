"""Steps of the system's clock, which nothing announces: its distance from the monotonic clock changes."""

import time
from collections.abc import Callable

from dreamzero_policy.runtime.observation import NS_PER_S

SLEWED = 0.1  # of the time that passes: what a clock may gain or lose without being set (chrony: at most a twelfth)


class ClockWatch:
    """Told both clocks again and again, notices when one of them was set.

    Two clocks cannot be read at once, and a process may lose its core between them. So the monotonic one is read before
    and after the other: their distance lies between two bounds, and what no distance within them explains is a step.
    """

    def __init__(self, threshold_s: float) -> None:
        self._threshold_ns = round(threshold_s * NS_PER_S)
        self._bounds_ns: tuple[int, int] | None = None  # of the distance, as far as it is known
        self._read_ns = 0  # by the monotonic clock

    def read(self, clock: Callable[[], int]) -> tuple[int, int, bool]:
        """The clock and the monotonic one [ns], and whether the clock was set since the last time."""
        before_ns, now_ns, after_ns = time.monotonic_ns(), clock(), time.monotonic_ns()
        return now_ns, after_ns, self.stepped(before_ns, now_ns, after_ns)

    def stepped(self, before_ns: int, now_ns: int, after_ns: int) -> bool:
        """Whether the clock was set by more than the threshold, forwards or backwards, since the last call."""
        least, most = now_ns - after_ns, now_ns - before_ns
        known, slack_ns = self._bounds_ns, round(SLEWED * (after_ns - self._read_ns))
        self._bounds_ns, self._read_ns = (least, most), after_ns
        if known is None:
            return False
        low, high = known[0] - slack_ns, known[1] + slack_ns
        if least <= high and low <= most:
            self._bounds_ns = max(least, low), min(most, high)
        return max(least - high, low - most) > self._threshold_ns
