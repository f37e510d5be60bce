"""The Python packages: which of requirements.in are wanted here, at which versions, and their installation."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from workspace_setup.report import Report, SetupError

# What a sourced ROS 2 brings itself, built against its own numpy.
FROM_ROS = re.compile(r"ros-jazzy-|(empy|lark|catkin_pkg|numpy|opencv-python-headless|cv-bridge)\b")
_SIZE = re.compile(r"\(([\d.]+) ([kMG]?)B\)")
_UNIT = {"": 1e-6, "k": 1e-3, "M": 1.0, "G": 1e3}


@dataclass(frozen=True)
class Wanted:
    """What pip is asked for: requirement lines, the lines that pin them, and the download this means."""

    requirements: tuple[str, ...]
    constraints: tuple[str, ...]
    download_mb: float

    def write(self, folder: Path) -> list[str]:
        """Write both lists into `folder`; returns the arguments that give them to pip."""
        folder.mkdir(parents=True, exist_ok=True)
        requirements, constraints = folder / "requirements.txt", folder / "constraints.txt"
        requirements.write_text("\n".join(self.requirements) + "\n")
        constraints.write_text("\n".join(self.constraints) + "\n")
        return ["-r", str(requirements), "-c", str(constraints)]


def torch_choice(before: str) -> str:
    """`cpu` or `cuda`: as TORCH says, else as `before` (empty at the first set-up), else cuda under an NVIDIA driver.

    Raises:
        SetupError: TORCH says something else.
    """
    found = "cuda" if Path("/proc/driver/nvidia/version").exists() else "cpu"
    asked = os.environ.get("TORCH") or before or found
    if asked not in ("cpu", "cuda"):
        raise SetupError(f"TORCH is '{asked}', but must be cpu or cuda")
    return asked


def lines_of(file: Path) -> list[str]:
    """The entries of a requirements file, without comments."""
    entries = (line.split(" #")[0].strip() for line in file.read_text().splitlines())
    return [entry for entry in entries if entry and not entry.startswith("#")]


def download_sizes_mb(lock: Path) -> tuple[float, float]:
    """The download the lock's head states: with the CPU build of torch, and with its default build [MB]."""
    found = re.search(r"^# Download: (\d+) MB .* (\d+) MB ", lock.read_text(), re.MULTILINE)
    if not found:
        raise SetupError(f"{lock} has no line '# Download: … MB … MB'; run tools/lock.py")
    return float(found[1]), float(found[2])


def wanted(tools: Path, *, ros_numpy: str | None, torch_pin: str, cpu_build: bool) -> Wanted:
    """What this machine installs.

    Args:
        tools: folder of requirements.in and requirements.lock.
        ros_numpy: numpy version of the sourced ROS 2, kept as it is; None where the ROS 2 wheels are used.
        torch_pin: constraint line for torch, in place of the lock's.
        cpu_build: torch_pin names a CPU build, which needs no CUDA libraries.
    """
    asked, pinned = lines_of(tools / "requirements.in"), lines_of(tools / "requirements.lock")
    pinned = [line for line in pinned if not line.startswith("torch==")] + [torch_pin]
    cpu_mb, default_mb = download_sizes_mb(tools / "requirements.lock")
    if ros_numpy:
        asked = [line for line in asked if not FROM_ROS.match(line)]
        pinned = [line for line in pinned if not FROM_ROS.match(line)] + [f"numpy=={ros_numpy}"]
    return Wanted(tuple(asked), tuple(pinned), cpu_mb if cpu_build else default_mb)


def require_numpy(ros_numpy: str, ros_distro: str) -> None:
    """The numpy of a sourced ROS 2 stays, for its messages were built against it, and the policy must work with it.

    Raises:
        SetupError: it is older than 1.26, as in ROS 2 Humble; says what can be built there.
    """
    if tuple(int(part) for part in ros_numpy.split(".")[:2]) < (1, 26):
        raise SetupError(
            f"ROS 2 {ros_distro} has numpy {ros_numpy}, the policy needs 1.26 or newer; messages and robot description "
            "build there: colcon build --base-paths src --packages-select dreamzero_msgs agibot_bringup"
        )


def pin_torch(python: Path, lock: Path, choice: str, report: Report) -> tuple[str, bool]:
    """The constraint line that gets the chosen build of torch, and whether it is a CPU build.

    A CPU build carries the local version `+cpu`. Not every package index has one for every Python: then the default
    build, which brings CUDA along and runs on a CPU as well, is taken.
    """
    version = next(line for line in lines_of(lock) if line.startswith("torch==")).removeprefix("torch==")
    if choice == "cuda":
        return f"torch=={version},!={version}+cpu", False
    probe = [str(python), "-m", "pip", "install", "--dry-run", "--no-deps", "--ignore-installed"]
    probe += [f"torch=={version}+cpu"]
    if report.run(probe, status="looking for a CPU build of torch") == 0:
        return f"torch=={version}+cpu", True
    cpu_mb, default_mb = download_sizes_mb(lock)
    report.say(f"      no CPU build of torch {version} for this Python on the configured package indexes: taking the")
    report.say(f"      default build with CUDA, {default_mb:.0f} MB to download in all instead of {cpu_mb:.0f}")
    report.say("      (PIP_EXTRA_INDEX_URL can name an index that has CPU builds)")
    return f"torch=={version}", False


def pip_pin(lock: Path) -> str:
    return next(line for line in lines_of(lock) if line.startswith("pip=="))


def install_pip(python: Path, lock: Path, report: Report) -> None:
    """Bring a new environment's pip to the pinned version; the rest relies on its options and its output.

    Raises:
        SetupError: pip failed, which without a network happens here first.
    """
    pin = pip_pin(lock)
    if report.run([str(python), "-m", "pip", "install", "--disable-pip-version-check", pin], status=pin) != 0:
        raise SetupError(f"could not install {pin}; is a package index reachable?")


def install(python: Path, asked: Wanted, folder: Path, report: Report) -> None:
    """Install what is asked for into the environment of `python`; `folder` keeps the lists pip was given.

    Raises:
        SetupError: pip failed; carries pip's own last error line.
    """
    _drop_other_torch(python, asked, report)
    report.say(f"      up to {asked.download_mb:.0f} MB to download (what pip has in its cache is not fetched again)")
    progress = _PipProgress(asked.download_mb)
    command = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--progress-bar", "raw"]
    if report.run([*command, *asked.write(folder)], on_line=progress.read, status="resolving") != 0:
        raise SetupError(f"pip could not install the packages: {progress.error or progress.last}")


def _drop_other_torch(python: Path, asked: Wanted, report: Report) -> None:
    # pip takes 2.13.0 and 2.13.0+cpu for the same version where the constraint names no local version.
    show = [str(python), "-c", "import importlib.metadata as m; print(m.version('torch'))"]
    installed = subprocess.run(show, capture_output=True, text=True)
    if installed.returncode == 0:
        cpu_wanted = any(re.fullmatch(r"torch==[\d.]+\+cpu", line) for line in asked.constraints)
        if installed.stdout.strip().endswith("+cpu") != cpu_wanted:
            report.run(
                [str(python), "-m", "pip", "uninstall", "-y", "torch"], status="removing the other build of torch"
            )


class _PipProgress:
    """Reads pip's output into one line: what is being fetched, and how much of the whole has come."""

    def __init__(self, total_mb: float) -> None:
        self.total_mb = total_mb
        self.finished_mb = self.current_mb = 0.0
        self.name = ""
        self.error = self.last = ""

    def read(self, line: str) -> str | None:
        words = line.split()
        self.last = line.strip() or self.last
        if line.startswith("ERROR:"):
            self.error = line.removeprefix("ERROR:").strip()
        if line.startswith("Progress "):
            self.current_mb = float(words[1]) / 1e6
        elif words[:1] == ["Downloading"] or words[:2] == ["Using", "cached"]:
            self.finished_mb += self.current_mb
            size = _SIZE.search(line)
            cached = words[0] == "Using" and size
            self.current_mb = float(size[1]) * _UNIT[size[2]] if cached and size else 0.0
            self.name = words[1 if words[0] == "Downloading" else 2].split("-")[0]
        elif line.startswith("Installing collected packages"):
            return f"installing {line.count(',') + 1} packages"
        else:
            return None
        return f"{self.finished_mb + self.current_mb:.0f} of {self.total_mb:.0f} MB  {self.name}"
