"""The controllers' parameters are known to every distribution they are meant for, of the right type, and explained."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from agibot_bringup.description import load_controllers

CONFIG = Path(__file__).parents[1] / "config"
# Names and types as the controllers' own parameter definitions have them; the versions stand in the file.
KNOWN = json.loads((Path(__file__).parent / "controller_parameters.json").read_text())
JTC = "joint_trajectory_controller/JointTrajectoryController"
TYPES = {"int": int, "double": float, "bool": bool, "string": str, "string_array": list}
FILES = ("controllers.yaml", *(f"controllers.{distribution}.yaml" for distribution in KNOWN))


def flat(tree: dict[str, Any], before: str = "") -> dict[str, Any]:
    found = {}
    for name, value in tree.items():
        found |= flat(value, f"{before}{name}.") if isinstance(value, dict) else {before + name: value}
    return found


def parameters(*files: str) -> dict[str, dict[str, Any]]:
    """Node → parameter → value, a later file over an earlier one."""
    merged: dict[str, dict[str, Any]] = {}
    for file in files:
        for node, section in yaml.safe_load((CONFIG / file).read_text()).items():
            assert node.startswith("/**/"), f"{file}: {node} would not be found in a namespace"
            merged.setdefault(node.removeprefix("/**/"), {}).update(flat(section["ros__parameters"]))
    return merged


def merged(distribution: str) -> dict[str, dict[str, Any]]:
    return parameters("controllers.yaml", f"controllers.{distribution}.yaml")


@pytest.mark.parametrize("distribution", KNOWN)
def test_every_parameter_is_known_there_and_of_its_type(distribution: str) -> None:
    nodes = merged(distribution)
    manager = nodes.pop("controller_manager")
    types = {key.removesuffix(".type"): manager.pop(key) for key in list(manager) if key.endswith(".type")}
    assert set(types) == set(nodes)
    known = {node: KNOWN[distribution][kind] for node, kind in types.items()}
    known["controller_manager"] = KNOWN[distribution]["controller_manager"]
    for node, values in (nodes | {"controller_manager": manager}).items():
        for name, value in values.items():
            assert name in known[node], f"{node}: {name} is unknown on {distribution}"
            assert type(value) is TYPES[known[node][name]], f"{node}: {name} is {value!r}, not {known[node][name]}"


@pytest.mark.parametrize("distribution", KNOWN)
def test_trajectories_join_from_the_last_command_and_must_end_at_rest(distribution: str) -> None:
    nodes = merged(distribution)
    for controller in load_controllers():
        values = nodes[controller]
        assert values["open_loop_control" if distribution == "humble" else "interpolate_from_desired_state"] is True
        assert values["allow_nonzero_velocity_at_trajectory_end"] is False
        assert values["allow_partial_joints_goal"] is False
        assert values["command_interfaces"] == ["position"]
        # After a stop a person may have moved the arms; a gripper goes on squeezing what it holds.
        assert values["set_last_command_interface_value_as_state_on_activation"] is ("gripper" in controller)
        # Where a stamp in the future could let the old trajectory go on, it does not: one message, one motion.
        deferred = "allow_trajectory_replacement" in KNOWN[distribution][JTC]
        assert not deferred or values["allow_trajectory_replacement"] is False


@pytest.mark.parametrize("distribution", KNOWN)
def test_commands_are_limited_wherever_ros2_control_can_do_it(distribution: str) -> None:
    manager = merged(distribution)["controller_manager"]
    assert manager["update_rate"] == 100
    can = "enforce_command_limits" in KNOWN[distribution]["controller_manager"]
    assert manager.get("enforce_command_limits", False) is can


def test_an_overlay_says_nothing_that_the_common_part_could() -> None:
    common = parameters("controllers.yaml")
    for distribution in KNOWN:
        for node, values in parameters(f"controllers.{distribution}.yaml").items():
            assert not set(values) & set(common[node]), f"{distribution}: {node}"


@pytest.mark.parametrize("file", FILES)
def test_every_parameter_is_commented(file: str) -> None:
    above = ""
    for line in (CONFIG / file).read_text().splitlines():
        if (
            re.match(r"    +[a-z_]+:", line)
            and not line.rstrip().endswith("controller:")
            and "constraints:" not in line
        ):
            key = line.split(":")[0].strip()
            assert "#" in line or above.lstrip().startswith("#") or key.endswith("broadcaster"), f"{file}: {key}"
        above = line
