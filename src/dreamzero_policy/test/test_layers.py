"""Guards the arrows between the rooms: who may import whom, and which libraries a room does without.

The imports are read from the source, so a forbidden one is found wherever it stands, also inside a function that no
test calls.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCES = Path(__file__).resolve().parents[2]
POLICY = SOURCES / "dreamzero_policy" / "dreamzero_policy"
TWIN = SOURCES / "agibot_twin" / "agibot_twin"
BRINGUP = SOURCES / "agibot_bringup" / "agibot_bringup"

# room -> rooms it may import (itself always)
ARROWS: dict[str, set[str]] = {
    "model": set(),
    "inference": {"model", "runtime"},
    "runtime": set(),
    "data": {"runtime"},
    "training": {"model", "data", "runtime"},
    "evaluation": {"inference", "data", "runtime"},
    "replay": {"data", "runtime"},
    "world_model": {"model", "inference", "runtime"},
    "ros": {"inference", "replay", "runtime"},
}
ARROWS["cli"] = set(ARROWS)  # the front door opens every room, and no room leads back to it

TORCH = {"torch", "diffusers", "transformers", "safetensors"}
ROS = {"rclpy", "cv_bridge", "ament_index_python", "launch", "launch_ros"}  # and every *_msgs
ROBOTS = {"agibot_twin", "agibot_bringup"}  # worlds are found by the entry point dreamzero.worlds
# room -> top-level packages it does without; all but `ros` do without ROS
FORBIDDEN: dict[str, set[str]] = {room: ROBOTS | ROS for room in ARROWS} | {
    "runtime": ROBOTS | ROS | TORCH,
    "ros": ROBOTS,
    "cli": ROBOTS,
}


def imports(source: str, package: str) -> Iterator[tuple[int, str]]:
    """Line and absolute dotted name of every import in `source`, a module directly inside `package`.

    `from a.b import c` gives `a.b.c`, since c may be a module.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def violations(source: str, package: str, allowed_rooms: set[str], forbidden: set[str]) -> list[str]:
    """What a module of `package` imports against the rules, as `line N: name`.

    Of dreamzero_policy it may import `allowed_rooms` (each room lists itself); top-level packages in `forbidden` not at
    all, and no *_msgs where rclpy is forbidden.
    """
    found = []
    for line, name in imports(source, package):
        top, _, rest = name.partition(".")
        room = rest.partition(".")[0]
        into_room = top == "dreamzero_policy" and room in ARROWS and room not in allowed_rooms
        of_ros = "rclpy" in forbidden and top.endswith("_msgs")
        if into_room or of_ros or top in forbidden:
            found.append(f"line {line}: {name}")
    return found


def modules(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py")) if folder.is_dir() else []


def package_of(module: Path, root: Path) -> str:
    """Dotted name of the package that `module` lies in; `root` is the folder of the top-level package."""
    return ".".join(module.parent.relative_to(root.parent).parts)


@pytest.mark.parametrize("room", ARROWS)
def test_a_room_imports_only_where_its_arrows_lead(room: str) -> None:
    for module in modules(POLICY / room):
        found = violations(module.read_text(), package_of(module, POLICY), ARROWS[room] | {room}, FORBIDDEN[room])
        assert not found, f"{module.relative_to(SOURCES)}: {found}; allowed rooms are {sorted(ARROWS[room])}"


def test_every_folder_of_the_policy_is_a_known_room() -> None:
    rooms = {folder.name for folder in POLICY.iterdir() if any(folder.glob("*.py"))}
    assert rooms <= set(ARROWS)
    assert {"model", "runtime", "ros"} <= rooms


def test_the_twin_knows_only_the_runtime_and_only_its_node_knows_ros() -> None:
    assert modules(TWIN)
    for module in modules(TWIN):
        of_the_node = module.stem.endswith("_node") or module.stem == "messages"  # conversions that the node alone uses
        forbidden = TORCH | (set() if of_the_node else {"rclpy", "cv_bridge"})
        source, package = module.read_text(), package_of(module, TWIN)
        found = violations(source, package, {"runtime"}, forbidden)
        if not of_the_node:
            found += [name for _, name in imports(source, package) if name.startswith("agibot_twin.messages")]
        assert not found, f"{module.relative_to(SOURCES)}: {found}"


def test_the_description_of_the_robot_knows_nothing_of_the_policy_and_the_tools_beside_it_only_the_runtime() -> None:
    for module in BRINGUP.glob("*.py"):
        describes = module.stem == "description"
        forbidden = TORCH | {"agibot_twin"} | ({"dreamzero_policy"} if describes else set())
        allowed = set() if describes else {"runtime"}
        found = violations(module.read_text(), package_of(module, BRINGUP), allowed, forbidden)
        assert not found, f"{module.relative_to(SOURCES)}: {found}"


def test_the_safety_gate_knows_only_the_runtime_and_only_its_node_knows_ros() -> None:
    gate = BRINGUP / "safety_gate"
    assert modules(gate)
    for module in modules(gate):
        of_the_node = module.stem in ("node", "messages", "parameters", "reports", "bench")
        forbidden = TORCH | {"agibot_twin"} | (set() if of_the_node else ROS)
        found = violations(module.read_text(), package_of(module, BRINGUP), {"runtime"}, forbidden)
        assert not found, f"{module.relative_to(SOURCES)}: {found}"


def test_the_bridge_knows_only_the_runtime_and_what_decides_in_it_knows_no_ros() -> None:
    bridge = BRINGUP / "bridge"
    assert modules(bridge)
    for module in modules(bridge):
        decides = module.stem in ("units", "guard", "adapter", "sdk")
        forbidden = TORCH | {"agibot_twin"} | (ROS if decides else set())
        found = violations(module.read_text(), package_of(module, BRINGUP), {"runtime"}, forbidden)
        assert not found, f"{module.relative_to(SOURCES)}: {found}"


@pytest.mark.parametrize(
    ("line", "offence"),
    [
        ("import torch", "torch"),
        ("import torch.nn as nn", "torch.nn"),
        ("from rclpy.node import Node", "rclpy.node.Node"),
        ("from sensor_msgs.msg import Image", "sensor_msgs.msg.Image"),
        ("from dreamzero_policy.model import cache", "dreamzero_policy.model.cache"),
        ("from dreamzero_policy import inference", "dreamzero_policy.inference"),
        ("from ..ros import qos", "dreamzero_policy.ros.qos"),
        ("from .. import cli", "dreamzero_policy.cli"),
        ("def late():\n    import agibot_twin", "agibot_twin"),
        ("if TYPE_CHECKING:\n    import rclpy", "rclpy"),
    ],
)
def test_an_import_against_an_arrow_is_found(line: str, offence: str) -> None:
    found = violations(line, "dreamzero_policy.runtime", {"runtime"}, FORBIDDEN["runtime"])
    assert [entry.partition(": ")[2] for entry in found] == [offence]


def test_an_import_along_an_arrow_is_none() -> None:
    source = "import numpy as np\nimport yaml\nfrom .chunk import Chunk\nfrom dreamzero_policy.runtime import limits\n"
    assert violations(source, "dreamzero_policy.runtime", {"runtime"}, FORBIDDEN["runtime"]) == []


def test_going_home_knows_only_runtime_gate_and_description_and_only_its_node_knows_ros() -> None:
    folder = BRINGUP / "go_home"
    assert modules(folder)
    for module in modules(folder):
        forbidden = TORCH | {"agibot_twin"} | (set() if module.stem == "node" else ROS)
        found = violations(module.read_text(), package_of(module, BRINGUP), {"runtime"}, forbidden)
        assert not found, f"{module.relative_to(SOURCES)}: {found}"
