"""Steps of the system's clock, which nothing announces: its distance from the monotonic clock changes."""

import time
from collections.abc import Callable

from dreamzero_policy.runtime.observation import NS_PER_S

# Of the time that passes, what the clock may gain or lose on the monotonic one without being set. Linux slews both
# together, and this is for systems that do not.
SLEWED = 0.001


class ClockWatch:
    """Told both clocks again and again, notices when one of them was set.

    Two clocks cannot be read at once, and a process may lose its core between them. So the monotonic one is read before
    and after the other: their distance lies between two bounds, and what no distance within them explains is a step.
    """

    def __init__(self, threshold_s: float) -> None:
        self._threshold_ns = round(threshold_s * NS_PER_S)
        self._bounds_ns: tuple[int, int] | None = None  # of the distance, as far as it is known
        self._read_ns = 0  # by the monotonic clock

    def read(self, clock: Callable[[], int]) -> tuple[int, int, int]:
        """The clock and the monotonic one, and by how much the clock was set since the last time; all in ns."""
        before_ns, now_ns, after_ns = time.monotonic_ns(), clock(), time.monotonic_ns()
        return now_ns, after_ns, self.step_ns(before_ns, now_ns, after_ns)

    def step_ns(self, before_ns: int, now_ns: int, after_ns: int) -> int:
        """By how much the clock was set since the last call, about; 0 where that is not more than the threshold."""
        least, most = now_ns - after_ns, now_ns - before_ns
        known, slack_ns = self._bounds_ns, round(SLEWED * (after_ns - self._read_ns))
        self._bounds_ns, self._read_ns = (least, most), after_ns
        if known is None:
            return 0
        low, high = known[0] - slack_ns, known[1] + slack_ns
        surely_ns, perhaps_ns = max(least - high, low - most), max(most - low, high - least)
        if surely_ns > self._threshold_ns:
            return (least + most - low - high) // 2
        if surely_ns <= 0:
            self._bounds_ns = max(least, low), min(most, high)
        elif perhaps_ns > self._threshold_ns:  # the next reading may tell
            self._bounds_ns = low, high
        return 0
