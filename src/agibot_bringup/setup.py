"""Installs package agibot_bringup for colcon: Python modules, data files and executables."""

from pathlib import Path

from setuptools import find_packages, setup

NAME = "agibot_bringup"


def shared(folder: str) -> list[tuple[str, list[str]]]:
    """Every file below `folder`, to lie under share/<package>/ in the same sub-folders."""
    found: dict[str, list[str]] = {}
    for file in sorted(p for p in Path(folder).rglob("*") if p.is_file() and "__pycache__" not in p.parts):
        found.setdefault(f"share/{NAME}/{file.parent}", []).append(str(file))
    return list(found.items())


setup(
    name=NAME,
    version="0.1.0",
    description="AgiBot G1: description, controllers, bridge to the robot, safety gate, launch",
    maintainer="DreamZero ROS 2 maintainers",
    maintainer_email="maintainers@dreamzero.example",
    license="Apache-2.0",
    packages=find_packages(include=[NAME, f"{NAME}.*"]),
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        *shared("config"),
        *shared("launch"),
        *shared("moveit"),
        *shared("urdf"),
    ],
    install_requires=["setuptools"],
    zip_safe=False,
    entry_points={
        "console_scripts": [
            "await_joint_states = agibot_bringup.await_joint_states:main",
            "bridge = agibot_bringup.bridge.node:main",
            "go_home = agibot_bringup.go_home.node:main",
            "nudge = agibot_bringup.nudge:main",
            "safety_gate = agibot_bringup.safety_gate.node:main",
            "state_validity = agibot_bringup.state_validity.node:main",
        ]
    },
)
