"""MoveIt's configuration says what description, controllers and contract say. MoveIt itself is not needed."""

import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

import pytest
import rclpy
import xacro
import yaml
from rclpy.context import Context
from rclpy.node import Node

from agibot_bringup.description import load_controllers, load_home, load_urdf, share_folder
from dreamzero_policy.runtime.contract import Contract, load_contract

MOVEIT = share_folder() / "moveit"
FILES = ("kinematics.yaml", "joint_limits.yaml", "ompl.yaml", "controllers.yaml")
# Plugins and parameters as MoveIt's own sources have them; versions and commits stand in the file.
KNOWN = json.loads((Path(__file__).parent / "moveit_known.json").read_text())
EXECUTED = {"arms", "torso", "arms_and_torso", "head", "left_gripper", "right_gripper", "whole_body"}


@pytest.fixture(scope="module")
def contract() -> Contract:
    return load_contract(Path(__file__).parents[3] / "config" / "agibot_g1.yaml")


@pytest.fixture(scope="module")
def robot() -> ElementTree.Element:
    return ElementTree.fromstring(load_urdf())


@pytest.fixture(scope="module")
def srdf() -> ElementTree.Element:
    return ElementTree.fromstring(xacro.process_file(str(MOVEIT / "agibot_g1.srdf.xacro")).toxml())


@pytest.fixture
def parameters(request: pytest.FixtureRequest) -> Iterator[dict[str, object]]:
    """What move_group would read of the files, by the parser that it uses."""
    context, files = Context(), getattr(request, "param", FILES)
    arguments = [word for name in files for word in ("--params-file", str(MOVEIT / name))]
    rclpy.init(args=["--ros-args", *arguments], context=context)
    node = Node("move_group", context=context, automatically_declare_parameters_from_overrides=True)
    yield {name: parameter.value for name, parameter in node.get_parameters_by_prefix("").items()}
    node.destroy_node()
    rclpy.shutdown(context=context)


def chain(robot: ElementTree.Element, base: str, tip: str) -> list[tuple[str, str]]:
    """Joints and links from a base, left out, to a tip."""
    above = {joint.find("child").get("link"): joint for joint in robot.iterfind("joint")}
    way: list[tuple[str, str]] = []
    while tip != base:
        joint = above[tip]
        way.insert(0, (joint.get("name"), tip))
        tip = joint.find("parent").get("link")
    return way


def joints_of(srdf: ElementTree.Element, robot: ElementTree.Element, group: str) -> set[str]:
    """Driven joints of a group, as MoveIt collects them."""
    element, driven = srdf.find(f"group[@name='{group}']"), set(load_home())
    joints = {joint.get("name") for joint in element.iterfind("joint")}
    for part in element.iterfind("chain"):
        joints |= {joint for joint, _ in chain(robot, part.get("base_link"), part.get("tip_link"))} & driven
    for part in element.iterfind("group"):
        joints |= joints_of(srdf, robot, part.get("name"))
    assert joints <= driven
    return joints


def test_a_group_that_is_executed_has_all_joints_of_the_controllers_it_moves(
    srdf: ElementTree.Element, robot: ElementTree.Element
) -> None:
    controllers = {name: set(joints) for name, joints in load_controllers().items()}
    whole = set()
    for group in srdf.iterfind("group"):
        joints = joints_of(srdf, robot, group.get("name"))
        moved = [part for part in controllers.values() if part & joints]
        if set().union(*moved) == joints:
            whole.add(group.get("name"))
    assert whole == EXECUTED
    assert joints_of(srdf, robot, "whole_body") == set(load_home())
    assert {"left_arm", "right_arm"} == {group.get("name") for group in srdf.iterfind("group")} - whole


def test_a_hand_hangs_on_its_arm_and_is_no_part_of_it(srdf: ElementTree.Element, robot: ElementTree.Element) -> None:
    for side in ("left", "right"):
        hand = srdf.find(f"end_effector[@name='{side}_hand']")
        part = srdf.find(f"group[@name='{hand.get('parent_group')}']/chain")
        links = [link for _, link in chain(robot, part.get("base_link"), part.get("tip_link"))]
        assert hand.get("parent_link") in links
        assert hand.get("group") == f"{side}_gripper"
        driven = srdf.find(f"group[@name='{side}_gripper']/joint").get("name")
        assert robot.find(f"joint[@name='{driven}']/child").get("link") not in links


def test_home_is_the_pose_in_which_the_policy_starts(srdf: ElementTree.Element, robot: ElementTree.Element) -> None:
    states = srdf.findall("group_state[@name='home']")
    assert {state.get("group") for state in states} == {"arms", "arms_and_torso", "whole_body"}
    for state in states:
        values = {joint.get("name"): float(joint.get("value")) for joint in state.iterfind("joint")}
        assert values == {joint: load_home()[joint] for joint in joints_of(srdf, robot, state.get("group"))}


def test_grippers_open_and_close_to_the_stops_of_the_contract(srdf: ElementTree.Element, contract: Contract) -> None:
    for joint, gripper in contract.site.grippers.items():
        for name, stop in (("open", gripper.open_rad), ("closed", gripper.closed_rad)):
            values = [
                float(element.get("value"))
                for element in srdf.iterfind(f"group_state[@name='{name}']/joint[@name='{joint}']")
            ]
            assert values == [stop]


def test_links_that_need_no_check_are_links_of_the_robot(srdf: ElementTree.Element, robot: ElementTree.Element) -> None:
    links = {link.get("name") for link in robot.iterfind("link") if link.find("collision") is not None}
    pairs = [(pair.get("link1"), pair.get("link2")) for pair in srdf.iterfind("disable_collisions")]
    assert len(pairs) == len(set(pairs)) > 50
    assert {link for pair in pairs for link in pair} <= links
    assert {pair.get("reason") for pair in srdf.iterfind("disable_collisions")} <= {
        "Adjacent",
        "Always",
        "Never",
        "User",
    }


def test_joint_limits_are_those_of_the_contract(parameters: dict[str, object], contract: Contract) -> None:
    prefix = "robot_description_planning.joint_limits."
    told = {name.removeprefix(prefix): value for name, value in parameters.items() if name.startswith(prefix)}
    wanted: dict[str, object] = {}
    for joint, limit in contract.site.limits.items():
        kinds = ("position", "velocity", "acceleration", "jerk")
        wanted |= {f"{joint}.has_{kind}_limits": True for kind in kinds}
        wanted |= {f"{joint}.max_{kind}": getattr(limit, kind) for kind in kinds[1:]}
        wanted |= {f"{joint}.min_position": limit.lower, f"{joint}.max_position": limit.upper}
    assert told == wanted


def test_moveit_executes_through_the_controllers_that_there_are(parameters: dict[str, object]) -> None:
    prefix, controllers = "moveit_simple_controller_manager.", load_controllers()
    assert parameters[f"{prefix}controller_names"] == list(controllers)
    for name, joints in controllers.items():
        assert parameters[f"{prefix}{name}.joints"] == list(joints)
        assert parameters[f"{prefix}{name}.type"] == "FollowJointTrajectory"
        assert parameters[f"{prefix}{name}.action_ns"] == "follow_joint_trajectory"


@pytest.mark.parametrize("parameters", [FILES, ("ompl_humble.yaml", *FILES[:2])], indirect=True)
def test_every_group_has_planners_and_every_arm_a_solver(
    parameters: dict[str, object], srdf: ElementTree.Element
) -> None:
    (pipeline,) = parameters["planning_pipelines"]
    for group in EXECUTED:
        assert parameters[f"{pipeline}.{group}.default_planner_config"] == "RRTConnect"
        for planner in parameters[f"{pipeline}.{group}.planner_configs"]:
            assert parameters[f"{pipeline}.planner_configs.{planner}.type"] == f"geometric::{planner}"
    for group in srdf.iterfind("group"):
        solver = f"robot_description_kinematics.{group.get('name')}.kinematics_solver"
        assert (solver in parameters) == (group.find("chain") is not None)


def test_what_is_planned_is_smoothed_for_jerk_last_but_for_its_check(parameters: dict[str, object]) -> None:
    names = [adapter.partition("/")[2] for adapter in parameters["ompl.response_adapters"]]
    assert names.index("AddTimeOptimalParameterization") + 1 == names.index("AddRuckigTrajectorySmoothing")
    assert names.index("AddRuckigTrajectorySmoothing") < names.index("ValidateSolution")


def test_rviz_plans_for_a_group_that_can_be_executed() -> None:
    displays = yaml.safe_load((MOVEIT / "moveit.rviz").read_text())["Visualization Manager"]["Displays"]
    (panel,) = [display for display in displays if display["Class"] == "moveit_rviz_plugin/MotionPlanning"]
    assert panel["Planning Request"]["Planning Group"] in EXECUTED


@pytest.mark.parametrize("distribution", KNOWN)
def test_every_plugin_and_every_parameter_of_the_pipeline_is_known_there(distribution: str) -> None:
    known = KNOWN[distribution]
    planning = "ompl_humble.yaml" if distribution == "humble" else "ompl.yaml"
    files = [*(MOVEIT / name for name in ("controllers.yaml", "kinematics.yaml", planning)), MOVEIT / "moveit.rviz"]
    named = {name for file in files for name in re.findall(r"\b[a-z_]+/[A-Z][A-Za-z]+\b", file.read_text())}
    assert {name for name in named if not name.startswith("rviz_")} <= set(known["plugins"])
    assert any(name.startswith("ompl_interface/") for name in named)
    (pipeline,) = (p["ompl"] for p in yaml.safe_load((MOVEIT / planning).read_text())["/**"].values())
    own = set(pipeline) - {"planner_configs"} - set(EXECUTED)
    assert own <= set(known["pipeline_parameters"])
