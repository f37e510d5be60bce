"""Jumps of the system's clock, which nothing announces: its distance from the monotonic clock changes."""

from dreamzero_policy.runtime.observation import NS_PER_S


class ClockWatch:
    """Told both clocks again and again, notices when one of them was set."""

    def __init__(self, threshold_s: float) -> None:
        self._threshold_ns = round(threshold_s * NS_PER_S)
        self._distance_ns: int | None = None

    def jumped(self, now_ns: int, monotonic_ns: int) -> bool:
        """Whether the clock was set by more than the threshold, forwards or backwards, since the last call."""
        before, self._distance_ns = self._distance_ns, now_ns - monotonic_ns
        return before is not None and abs(self._distance_ns - before) > self._threshold_ns
