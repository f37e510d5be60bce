"""How long to wait between attempts to connect: half a second, doubled up to a limit.

Pauses are spread, so that the robots of a fleet do not all knock at the same time.
"""

import random

FIRST_S = 0.5
SPREAD = 0.2  # of a pause, up or down


class Backoff:
    """The pauses of one outage after the other."""

    def __init__(self, longest_s: float, seed: int | None = None) -> None:
        self.longest_s, self.attempts = longest_s, 0
        self._random = random.Random(seed)

    def connected(self) -> None:
        """The next outage begins anew."""
        self.attempts = 0

    def pause_s(self, asked_s: float | None = None) -> float:
        """How long to wait now. `asked_s`: what the server asked for; it is waited for at least."""
        doubled_s = min(self.longest_s, FIRST_S * 2 ** min(self.attempts, 20))
        self.attempts += 1
        return max(doubled_s * self._random.uniform(1 - SPREAD, 1 + SPREAD), asked_s or 0.0)
