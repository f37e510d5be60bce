"""How fast one connection may talk."""

import time


class RateLimit:
    """A bucket of `per_second` messages that fills evenly, full at first."""

    def __init__(self, per_second: float) -> None:
        self._per_second, self._left, self._at_s = per_second, per_second, time.monotonic()

    def take(self) -> bool:
        """Take one; False if there is none."""
        now_s = time.monotonic()
        self._left = min(self._per_second, self._left + (now_s - self._at_s) * self._per_second)
        self._at_s = now_s
        if self._left < 1:
            return False
        self._left -= 1
        return True
