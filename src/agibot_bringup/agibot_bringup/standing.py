"""Whether a robot stands, by its joint states: who takes it over must know that nobody else moves it."""

import numpy as np

from dreamzero_policy.runtime.embodiment import Floats
from dreamzero_policy.runtime.observation import NS_PER_S

STILL = 0.003  # [rad, m]
STILL_S = 0.3  # a robot that moved by no more than STILL for so long stands


class Standing:
    """Of one robot. What was never heard does not stand."""

    def __init__(self) -> None:
        self._reference: Floats | None = None
        self._since_ns = 0

    def hear(self, positions: Floats, monotonic_ns: int) -> None:
        """Positions [J] of all its joints."""
        if self._reference is None or not (np.abs(positions - self._reference) <= STILL).all():
            self._reference, self._since_ns = positions, monotonic_ns

    def stands(self, monotonic_ns: int) -> bool:
        return self._reference is not None and monotonic_ns - self._since_ns >= STILL_S * NS_PER_S
