"""What the machine must have before any download: compiler, CMake, Python headers and venv, software OpenGL."""

from __future__ import annotations

import ctypes
import glob
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from workspace_setup.interpreter import Interpreter
from workspace_setup.report import Report, SetupError


@dataclass(frozen=True)
class Need:
    """Something of the system: what it is in words, its package in Debian and Ubuntu, and whether it is there."""

    what: str
    apt_package: str
    present: Callable[[], bool]


def needs(python: Interpreter) -> list[Need]:
    """Everything this workspace takes from the system, for building with `python`."""
    return [
        Need("C++ compiler", "g++", lambda: bool(shutil.which("c++") or shutil.which("g++"))),
        Need("CMake", "cmake", lambda: bool(shutil.which("cmake"))),
        Need("make", "make", lambda: bool(shutil.which("make"))),
        Need("Python headers", f"{python.apt_prefix}-dev", lambda: (python.include / "Python.h").is_file()),
        Need("Python venv", f"{python.apt_prefix}-venv", lambda: python.has_ensurepip),
        Need("OpenGL", "libgl1", lambda: _loads("libGL.so.1")),
        Need("EGL", "libegl1", lambda: _loads("libEGL.so.1")),
        Need("an EGL driver", "libegl-mesa0", _has_egl_driver),
        Need("a software OpenGL driver", "libgl1-mesa-dri", _has_gl_driver),
    ]


def missing(wanted: Sequence[Need]) -> list[Need]:
    return [need for need in wanted if not need.present()]


def require(wanted: Sequence[Need], report: Report) -> None:
    """Install what is missing where that is allowed.

    Raises:
        SetupError: something is missing and cannot be installed from here; names it and the command that installs it.
    """
    lacking = missing(wanted)
    if not lacking:
        return
    packages = sorted({need.apt_package for need in lacking})
    words = ", ".join(need.what for need in lacking)
    if not shutil.which("apt-get"):
        raise SetupError(f"missing: {words} (on Debian and Ubuntu: {' '.join(packages)}); install and run again")
    install = ["apt-get", "install", "-y", "--no-install-recommends", *packages]
    as_root = privilege()
    if as_root is None:
        raise SetupError(f"missing: {words}; run: sudo apt-get update && sudo {' '.join(install)}")
    report.say(f"      missing: {words}; installing {' '.join(packages)}")
    quietly = [*as_root, "env", "DEBIAN_FRONTEND=noninteractive"]  # after sudo, which does not pass variables on
    report.run([*quietly, "apt-get", "update"], status="reading package lists")
    status = report.run([*quietly, *install], status="installing system packages")
    lacking = missing(wanted)
    if lacking:
        words = ", ".join(need.what for need in lacking)
        raise SetupError(f"still missing after '{' '.join(install)}' (exit status {status}): {words}")


def privilege() -> list[str] | None:
    """What to put before a command so that it runs as root without asking, or None where that is not allowed."""
    if os.geteuid() == 0:
        return []
    if shutil.which("sudo") and subprocess.run(["sudo", "-n", "true"], capture_output=True).returncode == 0:
        return ["sudo", "-n"]
    return None


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _has_egl_driver() -> bool:
    folders = ("/usr/share/glvnd/egl_vendor.d", "/etc/glvnd/egl_vendor.d")
    return any(
        entry.suffix == ".json" for folder in folders if Path(folder).is_dir() for entry in Path(folder).iterdir()
    )


def _has_gl_driver() -> bool:
    # Mesa's software rasteriser: swrast_dri.so before Mesa 24.2, inside libgallium since. NVIDIA's driver serves too.
    patterns = ("dri/swrast_dri.so", "libgallium*.so", "libEGL_nvidia.so.0")
    return any(glob.glob(f"/usr/lib{where}/{pattern}") for where in ("", "64", "/*") for pattern in patterns)
