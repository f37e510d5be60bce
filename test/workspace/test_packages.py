"""The five packages as ROS 2 sees them: found by colcon, completely described, executables and worlds importable."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from catkin_pkg.package import Package, parse_package

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {
    "dreamzero": ROOT,
    "dreamzero_msgs": ROOT / "src" / "dreamzero_msgs",
    "dreamzero_policy": ROOT / "src" / "dreamzero_policy",
    "agibot_bringup": ROOT / "src" / "agibot_bringup",
    "agibot_twin": ROOT / "src" / "agibot_twin",
}
# Python import -> key that rosdep knows. ROS packages go by their own name and need no entry.
ROSDEP_KEYS = {
    "cv2": "python3-opencv",
    "hypothesis": "python3-hypothesis",
    "numpy": "python3-numpy",
    "OpenGL": "python3-opengl",
    "psutil": "python3-psutil",
    "pydantic": "python3-pydantic",
    "pytest": "python3-pytest",
    "rich": "python3-rich",
    "scipy": "python3-scipy",
    "typer": "python3-typer",
    "yaml": "python3-yaml",
}
ROS_PACKAGES = {"ament_index_python", "cv_bridge", "launch", "launch_ros", "rclpy", "xacro", *FOLDERS}


def test_colcon_at_the_root_finds_all_five_packages() -> None:
    listed = subprocess.run(
        [sys.executable, "-m", "colcon", "--log-base", "/dev/null", "list", "--names-only"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(listed.stdout.split()) == set(FOLDERS)


@pytest.mark.parametrize("name", FOLDERS)
def test_package_xml_is_valid_and_names_its_package(name: str) -> None:
    package = described(name)
    package.validate()
    assert package.name == name
    assert package.package_format == 3
    assert package.licenses == ["Apache-2.0"]


@pytest.mark.parametrize("name", ["dreamzero_policy", "agibot_bringup", "agibot_twin"])
def test_package_xml_declares_what_the_sources_import(name: str) -> None:
    package = described(name)
    run_time = {dependency.name for dependency in package.exec_depends} | {name}
    test_time = run_time | {dependency.name for dependency in package.test_depends}
    folder = FOLDERS[name]
    for file in [*(folder / name).rglob("*.py"), *(folder / "launch").rglob("*.py"), *(folder / "test").rglob("*.py")]:
        declared = test_time if folder / "test" in file.parents else run_time
        undeclared = needed_packages(file) - declared
        assert not undeclared, (
            f"{file.relative_to(ROOT)} imports {sorted(undeclared)}, {name}/package.xml does not declare it"
        )


@pytest.mark.parametrize("name", ["dreamzero_policy", "agibot_bringup", "agibot_twin"])
def test_every_executable_and_world_can_be_loaded(name: str) -> None:
    own = [
        entry
        for group in ("console_scripts", "dreamzero.worlds")
        for entry in entry_points(group=group)
        if entry.module.split(".")[0] == name
    ]
    assert own
    for entry in own:
        assert callable(entry.load()), f"{entry.name} = {entry.value}"


def described(name: str) -> Package:
    return parse_package(FOLDERS[name] / "package.xml")


def needed_packages(file: Path) -> set[str]:
    """Packages that rosdep can bring and `file` imports; libraries of requirements.lock alone are not among them."""
    tops = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            tops |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            tops.add(node.module.split(".")[0])
    ros = {top for top in tops if top in ROS_PACKAGES or top.endswith("_msgs") or top.endswith("_interfaces")}
    return ros | {ROSDEP_KEYS[top] for top in tops & set(ROSDEP_KEYS)}
