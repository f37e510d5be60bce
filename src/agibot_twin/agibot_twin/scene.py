"""The scene: the robot before a table with coloured objects and a bin, lit for cheap and clear pictures.

World frame = the robot's base_link: x forward, y left, z up, m. Objects get their places and colours
from a layout (`layout.py`). Nothing casts shadows and nothing is multisampled: on a
CPU renderer each costs more than the rest of the picture together.
"""

import mujoco
import numpy as np

from agibot_twin.objects import (
    BIN_CENTRE_M,
    BIN_SIZE_M,
    OBJECTS,
    TRAY,
    TRAY_HANDLE_SIZE_M,
    TRAY_HANDLE_Y_M,
    TRAY_MASS_KG,
    TRAY_SIZE_M,
    TableObject,
)
from agibot_twin.robot_model import VISUAL_GROUP, WORLD, camera_optics, robot_spec

TIMESTEP_S = 0.002
FLOOR_Z_M = -0.10  # below base_link (estimated: the wheels' contact)
TABLE_TOP_Z_M = 0.65
TABLE_CENTRE_M = (0.72, 0.0)
TABLE_SIZE_M = (0.62, 1.20)
THIRD_PERSON = "third_person"
LID_M, LID_RGB = 0.001, (0.96, 0.96, 0.96)  # painted on: nothing touches it


def build_spec(urdf: str) -> mujoco.MjSpec:
    """Editable model of robot, table, objects, bin, lights and cameras."""
    spec = robot_spec(urdf)
    spec.modelname = "agibot_g1_twin"
    _set_options(spec)
    _add_room(spec)
    _add_lights(spec)
    _add_table(spec)
    _add_bin(spec)
    for thing in OBJECTS:
        _add_object(spec, thing)
    _add_tray(spec)
    _add_cameras(spec, urdf)
    return spec


def _set_options(spec: mujoco.MjSpec) -> None:
    spec.option.timestep = TIMESTEP_S
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    spec.option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    spec.option.impratio = 10.0  # grasps creep less
    spec.visual.quality.offsamples = 0
    spec.visual.quality.shadowsize = 0
    # Vertices are most of a small picture's cost: round shapes of 16 sides, flat ones undivided.
    spec.visual.quality.numslices, spec.visual.quality.numstacks, spec.visual.quality.numquads = 16, 8, 1
    spec.visual.global_.offwidth, spec.visual.global_.offheight = 1280, 960  # largest picture
    spec.visual.map.znear, spec.visual.map.zfar = 0.01, 30.0
    spec.visual.headlight.ambient = [0.34, 0.34, 0.35]
    spec.visual.headlight.diffuse = [0.10, 0.10, 0.10]
    spec.visual.headlight.specular = [0.0, 0.0, 0.0]
    spec.stat.extent, spec.stat.center = 1.0, [0.6, 0.0, 0.8]


def _add_lights(spec: mujoco.MjSpec) -> None:
    for position, direction, diffuse in (
        ([1.6, 1.2, 3.0], [-0.45, -0.35, -1.0], [0.52, 0.51, 0.49]),
        ([0.4, -2.0, 2.6], [0.05, 0.70, -0.8], [0.20, 0.21, 0.24]),
    ):
        spec.worldbody.add_light(
            pos=position,
            dir=direction,
            diffuse=diffuse,
            ambient=[0, 0, 0],
            specular=[0.08, 0.08, 0.08],
            type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL,
            castshadow=False,
        )


def _add_room(spec: mujoco.MjSpec) -> None:
    """A room with a tiled floor. Untextured boxes: a texture and a sky cost a third of a small picture's time."""
    half, height = 5.0, 4.0
    middle_z = FLOOR_Z_M + height / 2
    wall = [0.95, 0.97, 1.0]
    _solid_box(spec.worldbody, "floor", [2 * half, 2 * half, 0.1], [0, 0, FLOOR_Z_M - 0.05], [0.50, 0.53, 0.57])
    _solid_box(spec.worldbody, "ceiling", [2 * half, 2 * half, 0.1], [0, 0, FLOOR_Z_M + height], wall)
    for i, side in enumerate((1, -1)):
        _solid_box(spec.worldbody, f"wall_x{i}", [0.1, 2 * half, height], [side * half, 0, middle_z], wall)
        _solid_box(spec.worldbody, f"wall_y{i}", [2 * half, 0.1, height], [0, side * half, middle_z], wall)
    tile = 0.5
    for column in range(-4, 6):
        for row in range(-4, 4):
            if (column + row) % 2 == 0:
                spec.worldbody.add_geom(
                    type=mujoco.mjtGeom.mjGEOM_BOX,
                    size=[tile / 2, tile / 2, 0.001],
                    pos=[(column + 0.5) * tile, (row + 0.5) * tile, FLOOR_Z_M],
                    rgba=[0.45, 0.48, 0.52, 1],
                    contype=0,
                    conaffinity=0,
                    group=VISUAL_GROUP,
                )


def _solid_box(body: mujoco.MjsBody, name: str, size: list[float], pos: list[float], rgb: list[float]) -> None:
    """A box that is seen and touched. `size` is the full edge length, m."""
    body.add_geom(
        name=name,
        type=mujoco.mjtGeom.mjGEOM_BOX,
        size=[edge / 2 for edge in size],
        pos=pos,
        rgba=[*rgb, 1.0],
        contype=WORLD,
        conaffinity=0xF,
        group=VISUAL_GROUP,
        condim=4,
        friction=[0.9, 0.01, 0.001],
    )


def _add_table(spec: mujoco.MjSpec) -> None:
    (x, y), (depth, width), thickness = TABLE_CENTRE_M, TABLE_SIZE_M, 0.036
    table = spec.worldbody.add_body(name="table")
    wood, edge, leg = [0.80, 0.76, 0.70], [0.55, 0.43, 0.31], [0.30, 0.31, 0.33]
    _solid_box(table, "table_top", [depth, width, thickness], [x, y, TABLE_TOP_Z_M - thickness / 2], wood)
    _solid_box(
        table, "table_frame", [depth - 0.02, width - 0.02, 0.03], [x, y, TABLE_TOP_Z_M - thickness - 0.015], edge
    )
    leg_height = TABLE_TOP_Z_M - thickness - FLOOR_Z_M
    for i, (dx, dy) in enumerate(((1, 1), (1, -1), (-1, 1), (-1, -1))):
        _solid_box(
            table,
            f"table_leg{i}",
            [0.05, 0.05, leg_height],
            [x + dx * (depth / 2 - 0.05), y + dy * (width / 2 - 0.05), FLOOR_Z_M + leg_height / 2],
            leg,
        )


def _add_bin(spec: mujoco.MjSpec) -> None:
    """An open box, fixed to the table's far side, that both arms reach."""
    (x, y), (depth, width, height), wall = BIN_CENTRE_M, BIN_SIZE_M, 0.006
    box = spec.worldbody.add_body(name="bin", pos=[x, y, TABLE_TOP_Z_M])
    outside, inside = [0.16, 0.36, 0.42], [0.23, 0.45, 0.51]
    _solid_box(box, "bin_floor", [depth, width, wall], [0, 0, wall / 2], inside)
    for i, side in enumerate((1, -1)):
        _solid_box(box, f"bin_wall_x{i}", [wall, width, height], [side * (depth - wall) / 2, 0, height / 2], outside)
        _solid_box(box, f"bin_wall_y{i}", [depth, wall, height], [0, side * (width - wall) / 2, height / 2], outside)


def _add_object(spec: mujoco.MjSpec, thing: TableObject) -> None:
    body = spec.worldbody.add_body(name=thing.name, pos=[0, 0, TABLE_TOP_Z_M + thing.half_height_m])
    body.add_freejoint(name=thing.name)
    size = [*thing.half_size_m, 0.0, 0.0][:3]
    # Rolling friction lets the ball come to rest.
    body.add_geom(
        name=thing.name,
        type=mujoco.mjtGeom(thing.shape),
        size=size,
        rgba=[1.0, 1.0, 1.0, 1.0],  # a layout gives the colour
        mass=thing.mass_kg,
        contype=WORLD,
        conaffinity=0xF,
        group=VISUAL_GROUP,
        condim=6,
        friction=[1.0, 0.01, 0.002],
    )
    if thing.lid_radius_m:
        body.add_geom(
            name=f"{thing.name}_lid",
            type=mujoco.mjtGeom.mjGEOM_CYLINDER,
            size=[thing.lid_radius_m, LID_M / 2, 0.0],
            pos=[0.0, 0.0, thing.half_height_m + LID_M / 2],
            rgba=[*LID_RGB, 1.0],
            mass=0.0,
            contype=0,
            conaffinity=0,
            group=VISUAL_GROUP,
        )


def _add_tray(spec: mujoco.MjSpec) -> None:
    """A plate with an upright handle at either end, for two hands."""
    (depth, width, thickness), (length, breadth, height) = TRAY_SIZE_M, TRAY_HANDLE_SIZE_M
    tray = spec.worldbody.add_body(name=TRAY)
    tray.add_freejoint(name=TRAY)
    parts = [("plate", [depth, width, thickness], [0.0, 0.0, 0.0], 0.6, [0.93, 0.93, 0.95])]
    for side, name in ((1, "left"), (-1, "right")):
        place = [0.0, side * TRAY_HANDLE_Y_M, (thickness + height) / 2]
        parts.append((f"{name}_handle", [length, breadth, height], place, 0.2, [0.55, 0.20, 0.65]))
    for name, size, place, share, rgb in parts:
        tray.add_geom(
            name=f"{TRAY}_{name}",
            type=mujoco.mjtGeom.mjGEOM_BOX,
            size=[edge / 2 for edge in size],
            pos=place,
            rgba=[*rgb, 1.0],
            mass=share * TRAY_MASS_KG,
            contype=WORLD,
            conaffinity=0xF,
            group=VISUAL_GROUP,
            condim=4,
            friction=[1.0, 0.01, 0.001],
        )


def _add_cameras(spec: mujoco.MjSpec, urdf: str) -> None:
    """The description's cameras, one per optical frame, and a view of the whole scene for documentation."""
    for camera in camera_optics(urdf).values():
        # MuJoCo looks along -z with y up, an optical frame along z with y down: half a turn about x.
        # The field of view is set for 4:3 pictures, vertically, as MuJoCo wants it.
        vertical_deg = float(np.degrees(2 * np.arctan(np.tan(camera.horizontal_fov_rad / 2) * 3 / 4)))
        spec.body(camera.optical_frame).add_camera(name=camera.name, quat=[0, 1, 0, 0], fovy=vertical_deg)
    eye, target = np.array([2.35, 1.55, 1.85]), np.array([0.40, 0.0, 0.86])
    back = (eye - target) / np.linalg.norm(eye - target)
    right = np.cross([0, 0, 1], back)
    right /= np.linalg.norm(right)
    quat = np.empty(4)
    mujoco.mju_mat2Quat(quat, np.column_stack([right, np.cross(back, right), back]).ravel())
    spec.worldbody.add_camera(name=THIRD_PERSON, pos=eye.tolist(), quat=quat.tolist(), fovy=42.0)
