"""The workspace itself: colcon builds the five packages, and the environment is told where they are."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from workspace_setup.report import Report, SetupError
from workspace_setup.stamps import digest_files

# Files whose contents go through the build. All else is installed as a link, so only its coming and going counts.
_BUILT = {"package.xml", "CMakeLists.txt", "setup.py", "setup.cfg"}
_BUILT_SUFFIXES = {".msg", ".srv", ".action"}
_LINKED_FOLDERS = {"launch", "config", "urdf", "checkpoints", "resource"}
# Variables a sourced ROS 2 workspace consists of.
_ROS_PATHS = ("AMENT_PREFIX_PATH", "CMAKE_PREFIX_PATH", "LD_LIBRARY_PATH", "PYTHONPATH")
_ROS_NAMES = ("ROS_DISTRO", "ROS_VERSION", "ROS_PYTHON_VERSION")


def package_folders(root: Path) -> list[Path]:
    return [root, *sorted(file.parent for file in (root / "src").glob("*/package.xml"))]


def inputs_digest(root: Path) -> str:
    """Hash over what a build depends on, small enough to be taken at every start."""
    built: list[Path] = []
    linked: list[Path] = []
    for package in package_folders(root):
        built += [file for file in package.iterdir() if file.name in _BUILT]
        built += package.glob("*/runtime/*.c")
        for folder in filter(Path.is_dir, package.iterdir()):
            if folder.name in {"msg", "srv", "action"}:
                built += [file for file in folder.iterdir() if file.suffix in _BUILT_SUFFIXES]
            elif folder.name in _LINKED_FOLDERS:
                linked += _files(folder)
    return digest_files(root, built, linked)


def _files(folder: Path) -> Iterator[Path]:
    for where, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name != "__pycache__"]
        yield from (Path(where, name) for name in names)


def install_base(root: Path, ros_distro: str | None) -> Path:
    """Where colcon installs: install/ beside a sourced ROS 2, else the environment, which is the ament prefix."""
    return root / "install" if ros_distro else root / ".venv"


def build_environment(venv: Path, ros_distro: str | None) -> dict[str, str]:
    """Environment of colcon and of every compiler it starts."""
    env = dict(os.environ)
    env["PATH"] = f"{venv / 'bin'}{os.pathsep}{env.get('PATH', os.defpath)}"
    env.pop("PYTHONHOME", None)
    if not ros_distro:
        env.pop("PYTHONPATH", None)
        env["AMENT_PREFIX_PATH"] = env["CMAKE_PREFIX_PATH"] = str(venv)
        env["LD_LIBRARY_PATH"] = os.pathsep.join(loader_folders(venv))
        env["_ROS_WHEELS_BOOTSTRAP_COMPLETE"] = "1"
    return env


def loader_folders(venv: Path) -> list[str]:
    """Folders of the shared libraries of the ROS 2 wheels, and of the messages built into the environment."""
    return [str(venv / "lib"), *map(str, sorted(venv.glob("lib/python3*/site-packages/ros_*.libs")))]


def build(root: Path, ros_distro: str | None, report: Report) -> None:
    """Run colcon over the whole workspace.

    Raises:
        SetupError: a package does not build; its output has been shown.
    """
    venv = root / ".venv"
    python = venv / "bin" / "python"
    env = build_environment(venv, ros_distro)
    command = [str(python), "-m", "colcon", "build", "--symlink-install", "--base-paths", str(root), str(root / "src")]
    command += ["--build-base", str(root / "build"), "--install-base", str(install_base(root, ros_distro))]
    if not ros_distro:
        command += ["--merge-install"]
    command += ["--cmake-args", f"-DPython3_EXECUTABLE={python}", "-DBUILD_TESTING=OFF"]
    _drop_foreign_cache(root / "build", root)
    tail: list[str] = []

    def follow(line: str) -> str | None:
        tail.append(line.rstrip())
        del tail[:-40]
        return line.strip() if line.startswith(("Starting >>>", "Finished <<<")) else None

    if report.run(command, env=env, cwd=root, on_line=follow, status="colcon") != 0:
        for line in tail:
            report.say("      | " + line)
        raise SetupError("the workspace does not build; see the lines above")


def _drop_foreign_cache(build_base: Path, root: Path) -> None:
    """CMake refuses a build folder that came from elsewhere, as after the checkout was moved; such a folder goes."""
    for cache in build_base.glob("*/CMakeCache.txt"):
        if f"CMAKE_CACHEFILE_DIR:INTERNAL={cache.parent}\n" not in cache.read_text(errors="replace"):
            shutil.rmtree(build_base)
            return


def connect(root: Path, ros_distro: str | None) -> None:
    """Let every Python of the environment, and the command `dreamzero` in it, find what was built.

    Python sources are found where they are (src/<package>), their metadata where colcon wrote it (build/<package>).
    """
    venv = root / ".venv"
    site = next(venv.glob("lib/python3*/site-packages"))
    prepend: Mapping[str, list[str]]
    if ros_distro:
        sourced = _sourced(root / "install" / "setup.sh")
        prepend = {name: [entry for entry in sourced.get(name, "").split(os.pathsep) if entry] for name in _ROS_PATHS}
        values = {name: sourced[name] for name in _ROS_NAMES if name in sourced}
    else:
        prepend = {"AMENT_PREFIX_PATH": [str(venv)], "LD_LIBRARY_PATH": loader_folders(venv)}
        values = {"_ROS_WHEELS_BOOTSTRAP_COMPLETE": "1"}
    text = f'"""Written by the set-up; read by _dreamzero_start."""\n\nPREPEND = {dict(prepend)!r}\nSET = {values!r}\n'
    (site / "_dreamzero_environment.py").write_text(text)
    shutil.copyfile(Path(__file__).with_name("start_hook.py"), site / "_dreamzero_start.py")
    pure = [package.name for package in package_folders(root)[1:] if (package / "setup.py").is_file()]
    paths = [str(root / "src" / name) for name in pure] + [str(root / "build" / name) for name in pure]
    # The name sorts before the other .pth files, so the environment is complete before any of them looks at it.
    (site / "_dreamzero.pth").write_text("\n".join(["import _dreamzero_start", *paths]) + "\n")
    command = venv / "bin" / "dreamzero"
    if not command.exists():
        command.unlink(missing_ok=True)
        command.symlink_to(root / "bin" / "dreamzero")


def _sourced(setup_file: Path) -> dict[str, str]:
    """The environment after sourcing a set-up file."""
    shown = subprocess.run(["sh", "-c", '. "$1" && env -0', "sh", str(setup_file)], capture_output=True, text=True)
    if shown.returncode != 0:
        raise SetupError(f"sourcing {setup_file} failed: {shown.stderr.strip()}")
    return dict(entry.split("=", 1) for entry in shown.stdout.split("\0") if "=" in entry)


def is_built(root: Path, ros_distro: str | None) -> bool:
    """Whether what the build left is still there (a person may have deleted build/ or install/)."""
    marker = "share/ament_index/resource_index/packages"
    base = install_base(root, ros_distro)
    names = [package.name for package in package_folders(root)[1:]]
    return all(
        (root / "build" / name).is_dir() and any((where / marker / name).exists() for where in (base, base / name))
        for name in names
    )
