"""A layout: which objects stand where, in which colours, and whether the tray is on the table.

World frame as in `scene.py`, m. Objects that a layout leaves out are parked on the floor behind the robot.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agibot_twin.objects import COLOURS, OBJECTS, TRAY, TRAY_SIZE_M
from agibot_twin.scene import FLOOR_Z_M, TABLE_TOP_Z_M

Floats = NDArray[np.float64]

REST_CLEARANCE_M = 0.001  # bodies are set down from this height
SPACING_M = 0.13  # between centres: room for an open gripper on either side
ZONE_X_M = (0.48, 0.60)
ZONE_Y_M = (-0.34, 0.34)
LARGEST_TURN_RAD = 0.3  # of an object about z: a turned cube's diagonal would not fit into the gripper
TRAY_SHARE = 0.25  # of the layouts have the tray
TRAY_X_M = (0.50, 0.55)
TRAY_Y_M = (-0.03, 0.03)
TRAY_TURN_RAD = 0.10
BESIDE_TRAY_Y_M = 0.27  # objects stand farther out than this where there is a tray
PARKED_M = (-3.0, 0.0)


@dataclass(frozen=True, eq=False)
class Layout:
    """`colours`: shape → name of its colour. `poses`: every body that is on the table → pose [x y z qw qx qy qz]."""

    colours: Mapping[str, str]
    poses: Mapping[str, Floats]

    @property
    def objects(self) -> tuple[str, ...]:
        """The objects on the table, without the tray."""
        return tuple(thing.name for thing in OBJECTS if thing.name in self.poses)

    @property
    def has_tray(self) -> bool:
        return TRAY in self.poses


def sample_layout(rng: np.random.Generator, tray: bool | None = None) -> Layout:
    """A random layout; `tray` says whether the tray is there, None leaves it to chance.

    Without a tray there are three objects, with it one on either side.
    """
    tray = bool(rng.random() < TRAY_SHARE) if tray is None else tray
    names = [thing.name for thing in OBJECTS]
    colours = dict(zip(names, (str(name) for name in rng.permutation(list(COLOURS))), strict=False))
    poses: dict[str, Floats] = {}
    if tray:
        poses[TRAY] = _pose(rng.uniform(*TRAY_X_M), rng.uniform(*TRAY_Y_M), TRAY_SIZE_M[2] / 2, rng, TRAY_TURN_RAD)
        outer = ZONE_Y_M[1]
        zones = [(BESIDE_TRAY_Y_M, outer), (-outer, -BESIDE_TRAY_Y_M)]
    else:
        zones = [ZONE_Y_M] * len(names)
    chosen = rng.permutation(names)[: len(zones)]
    for spot, name in zip(_spots(rng, zones), chosen, strict=True):
        thing = next(thing for thing in OBJECTS if thing.name == name)
        poses[str(name)] = _pose(*spot, thing.half_height_m, rng, LARGEST_TURN_RAD)
    return Layout(colours, poses)


def parked(index: int) -> Floats:
    """Where the body of this index waits while it is not on the table."""
    return np.array([PARKED_M[0], PARKED_M[1] + 0.4 * index, FLOOR_Z_M + 0.05, 1.0, 0.0, 0.0, 0.0])


def _spots(rng: np.random.Generator, zones: list[tuple[float, float]]) -> list[Floats]:
    """One place [x, y] in each zone, a spacing apart."""
    while True:  # three objects fill a small part of the zone: a few draws
        spots = [np.array([rng.uniform(*ZONE_X_M), rng.uniform(*zone)]) for zone in zones]
        gaps = [np.linalg.norm(a - b) for i, a in enumerate(spots) for b in spots[:i]]
        if min(gaps) >= SPACING_M:
            return spots


def _pose(x: float, y: float, half_height: float, rng: np.random.Generator, largest_turn_rad: float) -> Floats:
    turn = rng.uniform(-largest_turn_rad, largest_turn_rad)
    height = TABLE_TOP_Z_M + half_height + REST_CLEARANCE_M
    return np.array([x, y, height, np.cos(turn / 2), 0.0, 0.0, np.sin(turn / 2)])
