"""A clone below src/ of somebody's own workspace builds with the base paths that the README names, and works there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {"dreamzero", "dreamzero_msgs", "dreamzero_policy", "agibot_bringup", "agibot_twin"}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a copy of this checkout in src/, built."""
    folder = tmp_path_factory.mktemp("ros2_ws")
    copy_checkout(folder / "src" / "dreamzero_ros2")
    command = [sys.executable, "-m", "colcon", "build"]
    command += ["--base-paths", "src/dreamzero_ros2", "src/dreamzero_ros2/src"]
    command += ["--cmake-args", f"-DPython3_EXECUTABLE={sys.executable}", "-DBUILD_TESTING=OFF"]
    built = subprocess.run(
        command, cwd=folder, env=underlay(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert built.returncode == 0, built.stdout[-4000:]
    return folder


@pytest.mark.workspace
@pytest.mark.timeout(600)
def test_all_packages_are_installed(workspace: Path) -> None:
    assert {folder.name for folder in (workspace / "install").iterdir() if folder.is_dir()} == PACKAGES
    share = workspace / "install" / "dreamzero" / "share" / "dreamzero"
    assert (share / "config" / "agibot_g1.yaml").is_file()
    assert (workspace / "install" / "agibot_bringup" / "share" / "agibot_bringup" / "urdf").is_dir()


@pytest.mark.workspace
@pytest.mark.timeout(600)
def test_its_messages_and_policy_are_the_ones_a_sourced_shell_gets(workspace: Path) -> None:
    program = (
        "import dreamzero_msgs.msg as m, dreamzero_policy as p; m.ActionChunk(); print(m.__file__); print(p.__file__)"
    )
    for file in in_sourced_shell(workspace, f'"{sys.executable}" -c "{program}"').split():
        assert Path(file).is_relative_to(workspace / "install")


@pytest.mark.workspace
@pytest.mark.timeout(600)
def test_the_command_line_is_on_the_path_of_a_sourced_shell(workspace: Path) -> None:
    where = in_sourced_shell(workspace, "command -v dreamzero").strip()
    assert where == str(workspace / "install" / "dreamzero" / "bin" / "dreamzero")
    assert "demo" in in_sourced_shell(workspace, "dreamzero --help")


def copy_checkout(destination: Path) -> None:
    """Copy what a clone would hold: everything that .gitignore does not name."""
    entries = [line.strip() for line in (ROOT / ".gitignore").read_text().splitlines() if line.strip()]
    at_root = {entry.strip("/") for entry in entries if entry.startswith("/")} | {".git"}
    anywhere = shutil.ignore_patterns(*(entry.strip("/") for entry in entries if entry[0] not in "/#"))

    def ignored(folder: str, names: list[str]) -> set[str]:
        return anywhere(folder, names) | (at_root & set(names) if Path(folder) == ROOT else set())

    shutil.copytree(ROOT, destination, ignore=ignored)


def underlay() -> dict[str, str]:
    """The environment that the new workspace is built and sourced in: this one, whose ROS 2 it lies over."""
    env = dict(os.environ)
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    env.setdefault("CMAKE_PREFIX_PATH", env["AMENT_PREFIX_PATH"])
    return env


def in_sourced_shell(workspace: Path, command: str) -> str:
    """Output of `command` in a shell that sourced the workspace, run from another folder."""
    ran = subprocess.run(
        ["sh", "-c", f'. "{workspace}/install/local_setup.sh" && cd / && {command}'],
        env=underlay(),
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr[-4000:]
    return ran.stdout
