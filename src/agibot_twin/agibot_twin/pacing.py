"""When the twin's instants come: bound to the wall clock, or as fast as allowed. No ROS.

Both pacers answer two questions: how long to wait until an instant of the twin's clock, and how the run keeps up.
"""

import time
from collections.abc import Callable

NS_PER_S = 1_000_000_000
GIVE_UP_NS = 500_000_000  # behind by more than this, lost time is not caught up


class WallClockPacer:
    """Instants are those of a clock that runs by itself. A twin that falls behind catches up without sleeping."""

    def __init__(self, clock_ns: Callable[[], int]) -> None:
        self._clock_ns = clock_ns

    def wait_s(self, instant_ns: int) -> float:
        """Seconds until the instant; not positive if it is over."""
        return (instant_ns - self._clock_ns()) / NS_PER_S

    def lost_ns(self, instant_ns: int) -> int:
        """By how much to move the twin's clock: 0, or the distance to a wall clock that stepped or ran away."""
        distance = self._clock_ns() - instant_ns
        return distance if abs(distance) > GIVE_UP_NS else 0


class FactorPacer:
    """Simulated time at most `factor` times as fast as real time; 0 is as fast as the CPU allows.

    Time that the CPU could not keep up with is not caught up later: the twin never runs away from those who think
    in its time faster than the factor says.
    """

    def __init__(self, factor: float) -> None:
        self._factor = factor
        self._origin: tuple[int, float] | None = None  # an instant and the monotonic time it came

    def wait_s(self, instant_ns: int) -> float:
        """Seconds until the instant; not positive if it is due."""
        if self._factor == 0.0:
            return 0.0
        now = time.monotonic()
        if self._origin is None:
            self._origin = (instant_ns, now)
        origin_ns, origin = self._origin
        wait = origin + (instant_ns - origin_ns) / NS_PER_S / self._factor - now
        if wait < 0:
            self._origin = (instant_ns, now)
        return wait

    def lost_ns(self, instant_ns: int) -> int:
        """Always 0: simulated time owes nothing to any clock."""
        return 0
