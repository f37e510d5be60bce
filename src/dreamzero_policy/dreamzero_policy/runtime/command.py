"""What a joint trajectory controller is told: trajectories without a stamp, one after the other, as it plays them.

A trajectory replaces the one before it, whole, when it is taken. Until its first point is due the controller moves from
what was commanded to that point; after its last point it stands there. This is how commands are watched from outside.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dreamzero_policy.runtime.embodiment import Floats
from dreamzero_policy.runtime.plan import Plan


class Command:
    """The commanded motion of J joints over time."""

    def __init__(self, positions: Sequence[float], now_ns: int) -> None:
        """Standing still at `positions` [J] rad or m."""
        self.plan = Plan.rest(np.asarray(positions, np.float64), now_ns)

    def take(self, now_ns: int, after_ns: Sequence[int], positions: Floats, velocities: Floats) -> Plan:
        """A trajectory of N points, due `after_ns` [N] after now, [N, J] rad and rad/s. Gives its own part."""
        (position,), (velocity,) = self.plan.sample([now_ns])
        due_ns: NDArray[np.int64] = now_ns + np.asarray(after_ns, np.int64)
        sent = Plan(due_ns, np.asarray(positions, np.float64), np.asarray(velocities, np.float64))
        self.plan = Plan(
            np.append(now_ns, due_ns),
            np.concatenate([position[None], sent.positions]),
            np.concatenate([velocity[None], sent.velocities]),
        )
        return sent

    @property
    def rest_ns(self) -> int:
        """When it stands still, if nothing follows: the end of the last motion."""
        moves = (self.plan.velocities[1:] != 0).any(axis=1) | (np.diff(self.plan.positions, axis=0) != 0).any(axis=1)
        return int(self.plan.knots_ns[1:][moves][-1]) if moves.any() else int(self.plan.knots_ns[0])
