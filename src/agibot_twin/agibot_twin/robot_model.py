"""The G1 as a MuJoCo model: the shipped URDF plus what a URDF cannot say.

Kinematics, inertias, limits and shapes come from agibot_bringup's URDF alone. Added here: position drives, the coupling
of mimic joints, gravity compensation and the groups of shapes that may touch each other. Drive gains, armature and
friction are ours (estimated); they are stiff and critically damped at the inertias the arms have near home, because
the real drives' inner loops are not published.

A drive pulls with kp (q* - q) + kd (v* - v): one MuJoCo position actuator whose control is q* + (kd / kp) v*.
"""

import math
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass

import mujoco
import numpy as np
from numpy.typing import NDArray

VISUAL_GROUP = 1  # rendered
COLLISION_GROUP = 3  # not rendered

# Contact bits. Two shapes touch if one's type meets the other's affinity.
WORLD, BODY, LEFT, RIGHT = 1, 2, 4, 8

# The robot's joint order: that of the URDF, and of every array in this package.
DRIVEN_JOINTS = (
    "idx01_body_joint1",
    "idx02_body_joint2",
    "idx11_head_joint1",
    "idx12_head_joint2",
    *(f"idx2{i}_arm_l_joint{i}" for i in range(1, 8)),
    "idx41_gripper_l_outer_joint1",
    *(f"idx6{i}_arm_r_joint{i}" for i in range(1, 8)),
    "idx81_gripper_r_outer_joint1",
)


@dataclass(frozen=True, slots=True)
class Drive:
    """Position drive of one joint, in N m/rad, N m s/rad and kg m² (lift: N/m, N s/m, kg)."""

    stiffness: float
    damping: float
    armature: float  # rotor inertia seen at the joint
    effort_limit: float | None = None  # below the published one, where a full-strength drive would crush things


LIFT = Drive(stiffness=60_000.0, damping=2_200.0, armature=2.0)
WAIST = Drive(stiffness=8_000.0, damping=320.0, armature=0.3)
HEAD = Drive(stiffness=150.0, damping=4.5, armature=0.02)
SHOULDER = Drive(stiffness=2_500.0, damping=75.0, armature=0.15)  # arm joints 1 and 2
ELBOW = Drive(stiffness=1_500.0, damping=36.0, armature=0.10)  # arm joints 3 and 4
WRIST = Drive(stiffness=600.0, damping=12.0, armature=0.04)  # arm joints 5, 6 and 7
GRIPPER = Drive(stiffness=15.0, damping=0.3, armature=0.001, effort_limit=2.0)  # about 40 N at the pads


def drive_of(joint: str) -> Drive:
    """The drive of a driven joint (name without prefix)."""
    if "gripper" in joint:
        return GRIPPER
    if "head" in joint:
        return HEAD
    if "body" in joint:
        return LIFT if joint == "idx01_body_joint1" else WAIST
    return {"1": SHOULDER, "2": SHOULDER, "3": ELBOW, "4": ELBOW}.get(joint[-1], WRIST)


def velocity_lead_s() -> NDArray[np.float64]:
    """kd / kp [s] of every driven joint: how far ahead a drive's control runs per unit of velocity."""
    return np.array([drive_of(joint).damping / drive_of(joint).stiffness for joint in DRIVEN_JOINTS])


def robot_spec(urdf: str) -> mujoco.MjSpec:
    """The robot's editable model. Its root is the fixed base_link at the world's origin."""
    spec = mujoco.MjSpec.from_string(_with_compiler_settings(urdf))
    _assign_shapes(spec)
    _couple_mimic_joints(spec, urdf)
    _add_drives(spec)
    _compensate_gravity(spec)
    return spec


def _with_compiler_settings(urdf: str) -> str:
    """Keep visual shapes and fixed frames, which MuJoCo drops from a URDF by default."""
    root = ElementTree.fromstring(urdf)
    settings = ElementTree.SubElement(root, "mujoco")
    ElementTree.SubElement(settings, "compiler", discardvisual="false", fusestatic="false", strippath="true")
    return ElementTree.tostring(root, encoding="unicode")


def _assign_shapes(spec: mujoco.MjSpec) -> None:
    """Say which shapes are seen and which may touch: each arm the world, the other arm and the body, never itself."""
    for body in spec.bodies:
        side = {"_l": LEFT, "_r": RIGHT}.get(_side_of(body.name), BODY)
        for geom in body.geoms:
            if int(geom.contype) == 0:
                geom.group = VISUAL_GROUP
                continue
            geom.group = COLLISION_GROUP
            geom.contype = side
            geom.conaffinity = (WORLD | BODY | LEFT | RIGHT) & ~side
            if "gripper" in body.name:
                geom.friction = [1.5, 0.02, 0.001]
                geom.condim = 4
    # The shoulders turn inside the torso's shape.
    for side in "lr":
        for link in ("link1", "link2"):
            spec.add_exclude(bodyname1="body_link2", bodyname2=f"arm_{side}_{link}")


def _side_of(body_name: str) -> str:
    for side in ("_l", "_r"):
        if body_name.startswith((f"arm{side}_", f"gripper{side}_")):
            return side
    return ""


def _couple_mimic_joints(spec: mujoco.MjSpec, urdf: str) -> None:
    """Hold follower = offset + multiplier x leader by stiff joint equalities."""
    for joint in ElementTree.fromstring(urdf).iterfind("joint"):
        mimic = joint.find("mimic")
        if mimic is None:
            continue
        equality = spec.add_equality()
        equality.type = mujoco.mjtEq.mjEQ_JOINT
        equality.objtype = mujoco.mjtObj.mjOBJ_JOINT
        equality.name1, equality.name2 = joint.get("name"), mimic.get("joint")
        equality.data[:5] = [float(mimic.get("offset", 0.0)), float(mimic.get("multiplier", 1.0)), 0.0, 0.0, 0.0]
        equality.solref = [0.006, 1.0]
        equality.solimp = [0.97, 0.995, 0.001, 0.5, 2.0]
        follower = spec.joint(joint.get("name"))
        follower.armature = 2e-4
        # The coupling alone places a follower: its own stops would fight it where ranges end together.
        follower.limited = mujoco.mjtLimited.mjLIMITED_FALSE


def place_followers(model: mujoco.MjModel, qpos: NDArray[np.float64]) -> None:
    """Set mimic joints to where their equality wants them, without physics."""
    for equality in range(model.neq):
        follower, leader = model.eq_obj1id[equality], model.eq_obj2id[equality]
        offset, multiplier = model.eq_data[equality, :2]
        qpos[model.jnt_qposadr[follower]] = offset + multiplier * qpos[model.jnt_qposadr[leader]]


def _add_drives(spec: mujoco.MjSpec) -> None:
    for name in DRIVEN_JOINTS:
        drive, joint = drive_of(name), spec.joint(name)
        joint.armature = drive.armature
        actuator = spec.add_actuator(name=name, target=name, trntype=mujoco.mjtTrn.mjTRN_JOINT)
        actuator.gaintype = mujoco.mjtGain.mjGAIN_FIXED
        actuator.biastype = mujoco.mjtBias.mjBIAS_AFFINE
        actuator.gainprm[0] = drive.stiffness
        actuator.biasprm[:3] = [0.0, -drive.stiffness, -drive.damping]
        limit = drive.effort_limit or float(joint.actfrcrange[1])
        actuator.forcerange = [-limit, limit]


def _compensate_gravity(spec: mujoco.MjSpec) -> None:
    """All links float; in the waist, neck and arms the drive supplies that torque, so it counts as effort.

    The lift (100 N published, some 150 N of robot above it) and the fingers are balanced from outside.
    """
    for body in spec.bodies[1:]:
        body.gravcomp = 1.0
    for name in DRIVEN_JOINTS:
        if "gripper" not in name and name != "idx01_body_joint1":
            spec.joint(name).actgravcomp = 1


@dataclass(frozen=True, slots=True)
class CameraOptics:
    """A camera of the description: its optical frame (z along the view, x right) and horizontal field of view."""

    name: str
    optical_frame: str
    horizontal_fov_rad: float

    def focal_length_px(self, width: int) -> float:
        """Focal length for a picture `width` pixels wide."""
        return width / 2 / math.tan(self.horizontal_fov_rad / 2)


def camera_optics(urdf: str) -> dict[str, CameraOptics]:
    """The cameras that the description names, by name."""
    cameras = {}
    for sensor in ElementTree.fromstring(urdf).iterfind("gazebo/sensor[@type='camera']"):
        cameras[sensor.get("name")] = CameraOptics(
            name=sensor.get("name"),
            optical_frame=sensor.findtext("camera/optical_frame_id"),
            horizontal_fov_rad=float(sensor.findtext("camera/horizontal_fov")),
        )
    return cameras
