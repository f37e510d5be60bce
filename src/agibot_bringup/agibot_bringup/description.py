"""The robot's description, expanded from xacro, and its companion files.

Needs the `xacro` module (from a ROS 2 installation or from PyPI); no running ROS.
"""

import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

import xacro
import yaml


@dataclass(frozen=True, slots=True)
class JointLimit:
    """Published simulation limits of one joint: rad, rad/s and N m (a prismatic joint: m, m/s, N)."""

    lower: float
    upper: float
    velocity: float
    effort: float


def share_folder() -> Path:
    """Folder that holds urdf/, config/ and launch/: the source tree where this module lies in one, else share/."""
    source_tree = Path(__file__).resolve().parents[1]
    if (source_tree / "urdf").is_dir():
        return source_tree
    from ament_index_python.packages import get_package_share_directory

    return Path(get_package_share_directory("agibot_bringup"))


def load_urdf(prefix: str = "", hardware: str = "mock") -> str:
    """URDF text of the G1. `prefix` is put before every link, joint and frame name.

    `hardware` (mock, twin, topic or robot) chooses the ros2_control block.
    """
    top_file = share_folder() / "urdf" / "agibot_g1.urdf.xacro"
    document = xacro.process_file(str(top_file), mappings={"prefix": prefix, "hardware": hardware})
    return document.toprettyxml(indent="  ")


def load_home() -> dict[str, float]:
    """Home pose: joint name (without prefix) → rad (lift: m), in the robot's joint order."""
    with (share_folder() / "urdf" / "agibot_g1_home.yaml").open() as file:
        return yaml.safe_load(file)


def load_controllers() -> dict[str, tuple[str, ...]]:
    """Joints of every joint trajectory controller, in the controller's order, from config/controllers.yaml."""
    with (share_folder() / "config" / "controllers.yaml").open() as file:
        configuration = yaml.safe_load(file)
    return {
        name.rpartition("/")[2]: tuple(section["ros__parameters"]["joints"])
        for name, section in configuration.items()
        if "joints" in section["ros__parameters"]
    }


def joint_limits(urdf: str) -> dict[str, JointLimit]:
    """Limits of every joint that moves, mimic joints included."""
    limits = {}
    for joint in ElementTree.fromstring(urdf).iterfind("joint"):
        limit = joint.find("limit")
        if limit is not None:
            limits[joint.get("name")] = JointLimit(
                *(float(limit.get(key)) for key in ("lower", "upper", "velocity", "effort"))
            )
    return limits
