"""Whether a robot stands, by its joint states: who takes it over must know that nobody else moves it."""

from collections.abc import Sequence

import numpy as np

from dreamzero_policy.runtime.contract import Contract
from dreamzero_policy.runtime.embodiment import Floats
from dreamzero_policy.runtime.observation import NS_PER_S

STILL_S = 0.3  # for so long all positions of a joint must lie together
STILL = 0.012  # [rad, m] so closely: more than a lift that is reported in whole centimetres flickers


class Standing:
    """Of some of a contract's joints. Grippers tremble on what they hold, and may do so as far as they may be off."""

    def __init__(self, contract: Contract, joints: Sequence[str]) -> None:
        self._joints = tuple(joints)
        grippers = np.array([joint in contract.site.grippers for joint in joints])
        self._allowed = np.where(grippers, max(STILL, contract.site.tolerances.tracking), STILL)
        self._extremes: tuple[Floats, Floats] | None = None  # lowest and highest positions since then
        self._since_ns = 0
        self._moved = ""

    def hear(self, positions: Floats, monotonic_ns: int) -> None:
        """Positions [J] of all joints."""
        if self._extremes is not None:
            lowest, highest = np.minimum(positions, self._extremes[0]), np.maximum(positions, self._extremes[1])
            beyond = highest - lowest - self._allowed
            joint = int(np.argmax(beyond))
            if beyond[joint] <= 0:
                self._extremes = lowest, highest
                return
            self._moved = (
                f"{self._joints[joint]} moved by {highest[joint] - lowest[joint]:.4f}, allowed are "
                f"{self._allowed[joint]:g} in {STILL_S:g} s: something else commands it"
            )
        self._extremes, self._since_ns = (positions, positions), monotonic_ns

    def unrest(self, monotonic_ns: int) -> str:
        """Why the robot does not count as standing; empty if it stands."""
        if self._extremes is None:
            return "nothing was heard of its joints"
        if (heard_s := (monotonic_ns - self._since_ns) / NS_PER_S) >= STILL_S:
            return ""
        return self._moved or f"its joints were heard for {heard_s:.2f} s, {STILL_S:g} are needed"
