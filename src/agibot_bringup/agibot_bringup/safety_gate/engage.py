"""Engaging: from the pose in which the robot stands into what is wanted, by a ratio that rises from 0 to 1.

    outgoing(t) = pose + ratio(t) · (wanted(t) − pose)

The ratio begins and ends without a kink, so the robot sets out from rest without a step in speed, whatever is wanted.
A wanted trajectory that ends before the ratio has reached 1 is held at its end until then: the outgoing one ends at
rest too, and where it was to end.
"""

from dataclasses import dataclass

import numpy as np

from dreamzero_policy.runtime.embodiment import Floats
from dreamzero_policy.runtime.observation import NS_PER_S
from dreamzero_policy.runtime.plan import SHORTEST_NS, Plan, smootherstep

GRID_NS = 20_000_000  # between knots at most while the ratio rises: there a product of polynomials is told as cubics


@dataclass(frozen=True, eq=False)
class Engagement:
    """When the ratio began to rise, over which time, and from which pose [J]."""

    pose: Floats
    begin_ns: int
    engage_ns: int

    @property
    def end_ns(self) -> int:
        return self.begin_ns + self.engage_ns

    def ratio(self, instants_ns: np.ndarray) -> tuple[Floats, Floats]:
        """The ratio and its rate per second, [T, 1] each."""
        x = np.clip((instants_ns - self.begin_ns) / self.engage_ns, 0.0, 1.0)[:, None]
        return smootherstep(x), 30 * x * x * (1 - x) ** 2 * NS_PER_S / self.engage_ns

    def blended(self, wanted: Plan) -> Plan:
        """The outgoing trajectory, from the first point of `wanted` on; that one must end at rest."""
        begin_ns = int(wanted.knots_ns[0])
        if begin_ns >= self.end_ns:
            return wanted
        knots_ns = _with_grid(wanted.knots_ns, self.end_ns)
        positions, velocities = wanted.sample(knots_ns)
        velocities[-1] = 0.0  # exactly, as it was given: sampling rounds
        ratio, rate = self.ratio(knots_ns)
        away = positions - self.pose
        return Plan(knots_ns, self.pose + ratio * away, rate * away + ratio * velocities)


def _with_grid(knots_ns: np.ndarray, end_ns: int) -> np.ndarray:
    """The knots and further ones up to where the ratio is 1, a grid apart, none closer to another than allowed.

    The last one is at or behind `end_ns`: whatever ends before is held until then.
    """
    last_ns = int(knots_ns[-1])
    if last_ns < end_ns:
        knots_ns = np.append(knots_ns, max(end_ns, last_ns + SHORTEST_NS))
    further_ns = np.append(np.arange(knots_ns[0] + GRID_NS, end_ns - SHORTEST_NS, GRID_NS), end_ns)
    return np.union1d(knots_ns, further_ns[_distances(further_ns, knots_ns) >= SHORTEST_NS])


def _distances(instants_ns: np.ndarray, knots_ns: np.ndarray) -> np.ndarray:
    """From each instant to the nearest knot."""
    behind = np.clip(knots_ns.searchsorted(instants_ns), 1, len(knots_ns) - 1)
    return np.minimum(np.abs(instants_ns - knots_ns[behind - 1]), np.abs(instants_ns - knots_ns[behind]))
