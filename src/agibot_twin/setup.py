"""Installs package agibot_twin for colcon: Python modules, data files and executables."""

from pathlib import Path

from setuptools import find_packages, setup

NAME = "agibot_twin"


def shared(folder: str) -> list[tuple[str, list[str]]]:
    """Every file below `folder`, to lie under share/<package>/ in the same sub-folders."""
    found: dict[str, list[str]] = {}
    for file in sorted(p for p in Path(folder).rglob("*") if p.is_file() and "__pycache__" not in p.parts):
        found.setdefault(f"share/{NAME}/{file.parent}", []).append(str(file))
    return list(found.items())


setup(
    name=NAME,
    version="0.1.0",
    description="MuJoCo twin of the AgiBot G1",
    maintainer="DreamZero ROS 2 maintainers",
    maintainer_email="maintainers@dreamzero.example",
    license="Apache-2.0",
    packages=find_packages(include=[NAME, f"{NAME}.*"]),
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        *shared("config"),
        *shared("launch"),
    ],
    install_requires=["setuptools"],
    zip_safe=False,
    entry_points={
        "console_scripts": ["twin_node = agibot_twin.twin_node:main"],
        "dreamzero.worlds": ["agibot_g1 = agibot_twin.world:TwinWorld"],
        "dreamzero.demonstrations": ["agibot_twin = agibot_twin.collect:collect"],
        "dreamzero.geometries": ["agibot_g1 = agibot_twin.geometry:TwinGeometry"],
        "dreamzero.pictures": ["agibot_twin = agibot_twin.pictures:collect"],
        "dreamzero.suites": ["agibot_twin = agibot_twin.suite:TwinSuite"],
    },
)
