"""What lies on the table: three small bodies in four colours, an open bin and a tray with two handles.

A scene shows each shape once, in three different colours, so that a colour or a shape alone names an object. Sizes are
chosen so that a gripper (67 mm open) can hold every object and either handle. Lengths in m, masses in kg.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import mujoco

BOX, CYLINDER, SPHERE = (
    int(shape) for shape in (mujoco.mjtGeom.mjGEOM_BOX, mujoco.mjtGeom.mjGEOM_CYLINDER, mujoco.mjtGeom.mjGEOM_SPHERE)
)

COLOURS: Mapping[str, tuple[float, float, float]] = MappingProxyType(
    {"red": (0.86, 0.08, 0.08), "green": (0.05, 0.60, 0.20), "blue": (0.08, 0.25, 0.88), "yellow": (0.98, 0.80, 0.05)}
)


@dataclass(frozen=True, slots=True)
class TableObject:
    """A free body that a gripper can hold. `half_size_m` as MuJoCo's geom size.

    A lid is a light disc on top: from above, a cylinder of seven pixels and a ball are else alike to anybody.
    """

    name: str
    shape: int
    half_size_m: tuple[float, ...]
    mass_kg: float
    lid_radius_m: float = 0.0

    @property
    def half_height_m(self) -> float:
        return self.half_size_m[0] if self.shape == SPHERE else self.half_size_m[-1]


OBJECTS = (
    TableObject("cube", BOX, (0.022, 0.022, 0.024), 0.08),
    TableObject("cylinder", CYLINDER, (0.022, 0.030), 0.08, lid_radius_m=0.013),
    TableObject("ball", SPHERE, (0.025,), 0.06),
)
BY_NAME: Mapping[str, TableObject] = MappingProxyType({thing.name: thing for thing in OBJECTS})

BIN_CENTRE_M = (0.725, 0.0)
BIN_SIZE_M = (0.17, 0.24, 0.055)  # outer x, y and height

TRAY = "tray"
TRAY_SIZE_M = (0.15, 0.24, 0.008)  # x, y and thickness of its plate
TRAY_HANDLE_SIZE_M = (0.045, 0.010, 0.060)  # x, y and height above the plate
TRAY_HANDLE_Y_M = 0.112  # handles stand this far to either side of the middle
TRAY_MASS_KG = 0.15
