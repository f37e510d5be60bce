"""The description says what is published, and what is ours can be told apart and moves sensibly."""

import json
import re
import xml.etree.ElementTree as ElementTree
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import xacro

from agibot_bringup.description import joint_limits, load_controllers, load_home, load_urdf

TABLE = json.loads((Path(__file__).parent / "published_joint_table.json").read_text())
JOINTS = {joint["name"]: joint for joint in TABLE["joints"]}
MOVING = {name: joint for name, joint in JOINTS.items() if joint["type"] != "fixed"}
DRIVEN = 20
LEFT_DRIVER, RIGHT_DRIVER = "idx41_gripper_l_outer_joint1", "idx81_gripper_r_outer_joint1"


@pytest.fixture(scope="module")
def urdf() -> str:
    return load_urdf()


def rotation(rpy: list[float]) -> np.ndarray:
    """Fixed-axis roll, pitch, yaw → R = Rz Ry Rx."""
    (cr, cp, cy), (sr, sp, sy) = np.cos(rpy), np.sin(rpy)
    about_x = np.array([[1, 0, 0], [0, cr, -sr], [0, sr, cr]])
    about_y = np.array([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]])
    about_z = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def about(axis: list[float], angle: float) -> np.ndarray:
    """Rodrigues' rotation about a unit axis."""
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def published_frames(values: dict[str, float]) -> dict[str, np.ndarray]:
    """Pose [4, 4] of every link in base_link, from the published table alone."""
    frames, waiting = {"base_link": np.eye(4)}, list(TABLE["joints"])
    while waiting:
        joint = next(joint for joint in waiting if joint["parent"] in frames)
        waiting.remove(joint)
        origin, motion = np.eye(4), np.eye(4)
        origin[:3, :3], origin[:3, 3] = rotation(joint["origin_rpy_rad"]), joint["origin_xyz_m"]
        value = values.get(joint["name"], 0.0)
        if joint["type"] == "prismatic":
            motion[:3, 3] = value * np.array(joint["axis"])
        elif joint["type"] == "revolute":
            motion[:3, :3] = about(joint["axis"], value)
        frames[joint["child"]] = frames[joint["parent"]] @ origin @ motion
    return frames


def mimics(urdf: str) -> dict[str, tuple[str, float]]:
    """Follower → (leader, multiplier)."""
    return {
        joint.get("name"): (mimic.get("joint"), float(mimic.get("multiplier")))
        for joint in ElementTree.fromstring(urdf).iterfind("joint")
        if (mimic := joint.find("mimic")) is not None
    }


def coupled(urdf: str, driver_rad: float) -> dict[str, float]:
    """Values of all gripper joints with both drivers at one value."""
    values = {LEFT_DRIVER: driver_rad, RIGHT_DRIVER: driver_rad}
    return values | {name: multiplier * driver_rad for name, (_, multiplier) in mimics(urdf).items()}


def test_every_link_stands_where_the_published_table_puts_it(urdf: str) -> None:
    mujoco = pytest.importorskip("mujoco")
    settings = '<mujoco><compiler discardvisual="false" fusestatic="false"/></mujoco></robot>'
    model = mujoco.MjModel.from_xml_string(urdf.replace("</robot>", settings))
    data = mujoco.MjData(model)
    rng = np.random.default_rng(0)
    worst = 0.0
    for _ in range(20):
        values = {n: rng.uniform(j["limit"]["lower"], j["limit"]["upper"]) for n, j in MOVING.items()}
        for name, value in values.items():
            data.qpos[model.joint(name).qposadr[0]] = value
        mujoco.mj_kinematics(model, data)
        for link, pose in published_frames(values).items():
            worst = max(worst, np.abs(data.body(link).xpos - pose[:3, 3]).max())
            worst = max(worst, np.abs(data.body(link).xmat.reshape(3, 3) - pose[:3, :3]).max())
    assert worst < 1e-9


def test_limits_are_the_published_ones(urdf: str) -> None:
    limits = joint_limits(urdf)
    assert set(limits) == set(MOVING)
    for name, joint in MOVING.items():
        published = joint["limit"]
        assert (limits[name].lower, limits[name].upper) == (published["lower"], published["upper"])
        assert (limits[name].velocity, limits[name].effort) == (published["velocity"], published["effort"])


def test_published_mimic_joints_are_kept_and_all_passive_joints_follow_the_driven_one(urdf: str) -> None:
    followers = mimics(urdf)
    for name, joint in JOINTS.items():
        if "mimic" in joint:
            assert followers[name] == (joint["mimic"]["joint"], joint["mimic"]["multiplier"])
    passive = [name for name in MOVING if "gripper" in name and name not in (LEFT_DRIVER, RIGHT_DRIVER)]
    assert set(followers) == set(passive)
    assert all(leader == (LEFT_DRIVER if "_l_" in name else RIGHT_DRIVER) for name, (leader, _) in followers.items())


def test_finger_pads_stay_parallel_and_zero_is_closed(urdf: str) -> None:
    def pad(frames: dict[str, np.ndarray], finger: str) -> np.ndarray:
        return np.linalg.inv(frames["gripper_l_base_link"]) @ frames[f"gripper_l_{finger}_link4"]

    shut, wide = published_frames(coupled(urdf, 0.0)), published_frames(coupled(urdf, 0.785))
    for finger in ("inner", "outer"):
        assert np.allclose(pad(shut, finger)[:3, :3], pad(wide, finger)[:3, :3], atol=1e-12)
    distance = [pad(frames, "outer")[1, 3] - pad(frames, "inner")[1, 3] for frames in (shut, wide)]
    assert distance == pytest.approx([0.0447, 0.1122], abs=2e-4)  # m between finger pivots: 67.5 mm of opening
    assert pad(wide, "outer")[2, 3] - pad(shut, "outer")[2, 3] == pytest.approx(-0.0163, abs=2e-4)  # receding


def test_prefix_is_put_before_every_name() -> None:
    root = ElementTree.fromstring(load_urdf(prefix="robot7_"))
    named = [*root.iterfind("link"), *root.iterfind("joint"), *root.iterfind("ros2_control/joint")]
    references = [
        element.get(key)
        for path, key in (("joint/parent", "link"), ("joint/child", "link"), ("joint/mimic", "joint"))
        for element in root.iterfind(path)
    ]
    names = [element.get("name") for element in named] + references
    assert len(names) > 150
    assert all(name.startswith("robot7_") for name in names)
    assert root.findtext("gazebo/sensor/camera/optical_frame_id") == "robot7_head_color_optical_frame"


@cache
def expanded(hardware: str) -> str:
    return load_urdf(hardware=hardware)


def control_block(hardware: str) -> ElementTree.Element | None:
    return ElementTree.fromstring(expanded(hardware)).find("ros2_control")


@pytest.mark.parametrize("hardware", ["mock", "topic", "robot"])
def test_ros2_control_has_the_twenty_driven_joints_with_their_limits(urdf: str, hardware: str) -> None:
    limits = joint_limits(urdf)
    joints = {joint.get("name"): joint for joint in control_block(hardware).iterfind("joint")}
    assert list(joints) == list(load_home()) and len(joints) == DRIVEN
    for name, joint in joints.items():
        command = {p.get("name"): float(p.text) for p in joint.iterfind("command_interface[@name='position']/param")}
        assert command == {"min": limits[name].lower, "max": limits[name].upper}
        states = {state.get("name") for state in joint.iterfind("state_interface")}
        # joint_state_topic_hardware_interface 1.1.0 sets whatever a JointState has, and fails on what is not declared.
        assert states == {"position", "velocity"} | ({"effort"} if hardware != "mock" else set())


def test_mock_hardware_starts_at_home() -> None:
    block = control_block("mock")
    assert block.findtext("hardware/plugin") == "mock_components/GenericSystem"
    initial = {
        joint.get("name"): float(joint.findtext("state_interface[@name='position']/param"))
        for joint in block.iterfind("joint")
    }
    assert initial == load_home()


@pytest.mark.parametrize("hardware", ["topic", "robot"])
def test_hardware_on_topics_keeps_clear_of_joint_states_and_knows_nothing_before_it_hears(hardware: str) -> None:
    block = control_block(hardware)
    assert block.findtext("hardware/plugin") == "joint_state_topic_hardware_interface/JointStateTopicSystem"
    parameters = {p.get("name"): p.text for p in block.iterfind("hardware/param")}
    assert parameters["joint_commands_topic"] == "robot_joint_commands"  # relative: a namespace moves it
    assert parameters["joint_states_topic"] == "robot_joint_states"
    assert float(parameters["trigger_joint_command_threshold"]) < 0  # every command goes out
    assert block.find("joint/state_interface/param") is None


def test_the_twin_needs_no_ros2_control_and_another_word_is_refused() -> None:
    assert control_block("twin") is None
    with pytest.raises(xacro.XacroException, match="hardware is 'vendor/Plugin', expected one of mock, twin, topic"):
        load_urdf(hardware="vendor/Plugin")


def test_home_lies_within_the_limits(urdf: str) -> None:
    limits = joint_limits(urdf)
    assert all(limits[name].lower <= value <= limits[name].upper for name, value in load_home().items())


def test_controllers_cover_every_driven_joint_once() -> None:
    controllers = load_controllers()
    assert {name: len(joints) for name, joints in controllers.items()} == {
        "dual_arm_controller": 14,
        "left_gripper_controller": 1,
        "right_gripper_controller": 1,
        "head_controller": 2,
        "waist_controller": 2,
    }
    assert sorted(joint for joints in controllers.values() for joint in joints) == sorted(load_home())


def test_the_how_to_says_where_each_joint_of_the_arms_takes_the_gripper() -> None:
    page = (Path(__file__).parents[3] / "docs" / "how-to" / "first-day-with-the-robot.md").read_text()
    rows = re.findall(r"^\| (idx\d+_arm_([lr])_joint\d) \| (-?\d+) \| (-?\d+) \| (-?\d+) \|", page, re.MULTILINE)
    assert len(rows) == 14
    home = load_home()
    for joint, side, *shown in rows:
        centres = [
            published_frames(home | {joint: home[joint] + turn})[f"gripper_{side}_center_link"][:3, 3]
            for turn in (0, 0.1)
        ]
        assert 1e3 * (centres[1] - centres[0]) == pytest.approx([float(number) for number in shown], abs=0.51), joint
