"""Which Python the virtual environment is built with, and which ROS 2 stands behind it."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from workspace_setup.report import SetupError

SUPPORTED = ((3, 10), (3, 13))  # the ROS wheels and every pinned package have builds for these, both ends included

_QUESTIONS = """
import importlib.util, json, os, sys, sysconfig
print(json.dumps({
    "executable": sys.executable,
    "base": os.path.realpath(sys.executable) if sys.prefix != sys.base_prefix else None,
    "version": list(sys.version_info[:2]),
    "include": sysconfig.get_path("include"),
    "has_ensurepip": importlib.util.find_spec("ensurepip") is not None,
    "has_rclpy": importlib.util.find_spec("rclpy") is not None,
}))
"""


@dataclass(frozen=True)
class Interpreter:
    """A Python outside any virtual environment, as it answered about itself."""

    executable: str
    version: tuple[int, int]
    include: Path
    has_ensurepip: bool
    has_rclpy: bool

    @property
    def name(self) -> str:
        return f"Python {self.version[0]}.{self.version[1]}"

    @property
    def apt_prefix(self) -> str:
        """`python3` for the distribution's own Python, `python3.12` for one beside it."""
        own = os.path.realpath("/usr/bin/python3")
        return "python3" if os.path.realpath(self.executable) == own else f"python{self.version[0]}.{self.version[1]}"


def ask(executable: str) -> Interpreter | None:
    """What the Python at `executable` says about itself, or the one below it if that is a virtual environment's.

    None if it does not run.
    """
    try:
        answer = subprocess.run([executable, "-c", _QUESTIONS], capture_output=True, text=True, timeout=60)
    except OSError:
        return None
    if answer.returncode != 0:
        return None
    told = json.loads(answer.stdout.splitlines()[-1])
    if told["base"] and told["base"] != executable:
        return ask(told["base"])
    return Interpreter(
        told["executable"], tuple(told["version"]), Path(told["include"]), told["has_ensurepip"], told["has_rclpy"]
    )


def sourced_ros() -> str | None:
    """Name of the ROS 2 distribution whose environment this shell has, or None."""
    return os.environ.get("ROS_DISTRO") if os.environ.get("AMENT_PREFIX_PATH") else None


def choose(running: str, ros_distro: str | None) -> Interpreter:
    """The Python to build with: the one asked for with PYTHON, else the first on the path that suits.

    Args:
        running: the Python outside the environment that runs the set-up, or that an existing .venv was made with.
        ros_distro: distribution of the sourced ROS 2; then the Python must be the one that imports its rclpy.

    Raises:
        SetupError: none suits; names what was found.
    """
    asked = os.environ.get("PYTHON")
    names = (
        [asked]
        if asked
        else [running, "python3", "python3.11", "python3.12", "python3.13", "python3.10", "/usr/bin/python3"]
    )
    found = [python for python in map(ask, names) if python]
    for python in found:
        if python.has_rclpy if ros_distro else SUPPORTED[0] <= python.version <= SUPPORTED[1]:
            return python
    seen = ", ".join(sorted({f"{python.name} ({python.executable})" for python in found})) or "none that runs"
    if ros_distro:
        raise SetupError(f"ROS 2 {ros_distro} is sourced, but no Python here imports its rclpy (found: {seen})")
    raise SetupError(f"needs Python 3.10 to 3.13 (found: {seen}); install one and name it: make setup PYTHON=…")
