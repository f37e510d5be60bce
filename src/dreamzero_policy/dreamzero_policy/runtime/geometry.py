"""What limits ask of a robot's shape: a box that a hand stays in, and distance between its own parts.

The runtime knows no shapes. A package that does offers a geometry under the entry point group `dreamzero.geometries`,
by the contract's `model.embodiment`. Both checks are off unless the contract's site section asks for them.

Where the robot already stands outside, or closer to itself than allowed, it may stay so and come back, never go on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Protocol

import numpy as np

from dreamzero_policy.runtime.chunk import ACCEPTED, Judgement, Verdict
from dreamzero_policy.runtime.contract import Box, Contract, ContractError
from dreamzero_policy.runtime.embodiment import Floats

GROUP = "dreamzero.geometries"
ROUNDING_M = 1e-6


class Geometry(Protocol):
    """A robot's shape at positions [T, J] of the commanded joints [rad, m], everything else where it is at home."""

    hands: Sequence[str]

    def hand_positions(self, hand: str, positions: Floats) -> Floats:
        """Where a hand's tool point is [T, 3], in the robot's base frame [m]."""

    def self_distances(self, positions: Floats, reach_m: float) -> tuple[Floats, Sequence[str]]:
        """Distance [T] of the two nearest parts that must not touch [m], negative where they overlap, and their names.

        Where none are nearer than `reach_m`, that and an empty name.
        """


class Check(Protocol):
    """Looks at positions [T, J] of the commanded joints in their order of time."""

    def __call__(self, positions: Floats) -> Judgement: ...


@dataclass(frozen=True)
class StaysInWorkspace:
    geometry: Geometry
    boxes: Mapping[str, Box]  # by hand

    def __call__(self, positions: Floats) -> Judgement:
        for hand, box in self.boxes.items():
            places = self.geometry.hand_positions(hand, positions)
            outside = np.stack([np.subtract(box.lower, places), np.subtract(places, box.upper)], axis=1)  # [T, 2, 3]
            excess = outside - np.maximum(outside[0], 0)
            if (excess > ROUNDING_M).any():
                look, _, axis = np.unravel_index(np.argmax(excess), excess.shape)
                return Judgement(
                    Verdict.REJECTED_WORKSPACE,
                    f"hand {hand} reaches {'xyz'[axis]} {places[look, axis]:.3f} m, "
                    f"workspace {box.lower[axis]:.3f} to {box.upper[axis]:.3f}",
                )
        return ACCEPTED


@dataclass(frozen=True)
class KeepsClearOfItself:
    geometry: Geometry
    clearance_m: float

    def __call__(self, positions: Floats) -> Judgement:
        distances, pairs = self.geometry.self_distances(positions, self.clearance_m)
        least_m = min(self.clearance_m, distances[0])
        look = int(np.argmin(distances))
        if distances[look] >= least_m - ROUNDING_M:
            return ACCEPTED
        return Judgement(
            Verdict.REJECTED_SELF_COLLISION,
            f"{pairs[look]} come within {distances[look]:.4f} m, clearance {self.clearance_m:.4f}",
        )


def checks_of(contract: Contract, geometry: Geometry | None = None) -> tuple[Check, ...]:
    """The checks that a contract asks for, on the robot's installed geometry unless one is given.

    Raises:
        ContractError: no geometry of this robot is installed, or it has no hand of a name in the workspace.
    """
    site = contract.site
    if not site.workspace and site.self_clearance_m is None:
        return ()
    geometry = geometry or installed(contract)
    if unknown := sorted(set(site.workspace) - set(geometry.hands)):
        raise ContractError(f"site.workspace names hands {unknown}, the robot has {sorted(geometry.hands)}")
    checks: list[Check] = [StaysInWorkspace(geometry, site.workspace)] if site.workspace else []
    if site.self_clearance_m is not None:
        checks.append(KeepsClearOfItself(geometry, site.self_clearance_m))
    return tuple(checks)


def installed(contract: Contract) -> Geometry:
    """The geometry of a contract's robot, for its commanded joints.

    Raises:
        ContractError: none is installed under the embodiment's name.
    """
    known = {entry.name: entry for entry in entry_points(group=GROUP)}
    name = contract.model.embodiment
    if name not in known:
        raise ContractError(
            f"the contract's site asks for workspace or self_clearance_m, and no geometry of {name!r} is installed, "
            f"only {sorted(known)}: install the package that has it ({GROUP}), or take both fields out"
        )
    return known[name].load()(contract.model.commanded_joints)
