"""The set-up from beginning to end; read `_bring_up_to_date` first."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from workspace_setup import build, interpreter, packages, system, wheels
from workspace_setup.interpreter import Interpreter
from workspace_setup.report import Report, SetupError
from workspace_setup.stamps import Stamps, digest

TOOLS = Path(__file__).resolve().parents[1]
LOCK = TOOLS / "requirements.lock"
ROOT = TOOLS.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STEPS = 5


def main() -> int:
    """Bring the workspace up to date; returns the exit status."""
    report = Report(ROOT / "log" / "setup.log", STEPS)
    try:
        with _alone(report):
            _bring_up_to_date(report)
    except SetupError as error:
        report.say(f"set-up: {error}")
        report.say(f"set-up: failed; what it ran is in {report.log_path}")
        return 1
    except KeyboardInterrupt:
        report.say("set-up: interrupted; the same command goes on from here")
        return 130
    return 0


def _bring_up_to_date(report: Report) -> None:
    ros_distro = interpreter.sourced_ros()
    stamps = Stamps(VENV / ".setup")
    torch = packages.torch_choice(stamps.read("torch"))
    base_python = _base_python(stamps, ros_distro)

    # What each step depends on contains what the step before it depended on, so a change early on redoes the rest.
    venv_stamp = digest(str(VENV), _mode(ros_distro), base_python, packages.pip_pin(LOCK))
    packages_stamp = digest(venv_stamp, torch, (TOOLS / "requirements.in").read_bytes(), LOCK.read_bytes())
    own_code = (file.read_bytes() for file in sorted(Path(__file__).parent.glob("*.py")))
    build_stamp = digest(packages_stamp, build.inputs_digest(ROOT), *own_code)
    have_venv = stamps.current("venv", venv_stamp) and PYTHON.exists()
    have_packages = have_venv and stamps.current("packages", packages_stamp)
    if have_packages and stamps.current("build", build_stamp) and build.is_built(ROOT, ros_distro):
        return

    started = time.monotonic()
    report.say(f"Setting up {ROOT} with {_mode(ros_distro)}")
    report.begin("system packages")
    python = interpreter.ask(base_python)
    if python is None:
        raise SetupError(f"{base_python} does not run any more; remove {VENV} and run again")
    system.require(system.needs(python), report)
    report.done()

    report.begin(f"virtual environment .venv with {python.name}")
    if not have_venv:
        _create_environment(python, ros_distro, report)
        stamps.write("python", f"{_mode(ros_distro)}\n{python.executable}")
        stamps.write("venv", venv_stamp)
    report.done()

    report.begin("Python packages")
    if not have_packages:
        stamps.clear("packages")
        _install_packages(ros_distro, torch, report)
    report.done()

    report.begin("build paths inside the ROS 2 packages")
    if not ros_distro and not have_packages:
        numpy_include = _ask_environment("import numpy; print(numpy.get_include())")
        changed = wheels.rewrite_paths(VENV, python.include, Path(numpy_include))
        report.say(f"      {len(changed)} files")
    stamps.write("torch", torch)
    stamps.write("packages", packages_stamp)
    report.done()

    report.begin("workspace (colcon build)")
    stamps.clear("build")
    build.build(ROOT, ros_distro, report)
    build.connect(ROOT, ros_distro)
    stamps.write("build", build_stamp)
    report.done()
    report.say(f"Ready after {time.monotonic() - started:.0f} s. Log: {report.log_path}")


def _mode(ros_distro: str | None) -> str:
    return f"the sourced ROS 2 {ros_distro}" if ros_distro else "ROS 2 Jazzy from Python wheels"


def _base_python(stamps: Stamps, ros_distro: str | None) -> str:
    """The interpreter to build with. An environment keeps its own, whatever `python3` the path has today."""
    recorded = stamps.read("python").splitlines()
    if len(recorded) == 2 and recorded[0] == _mode(ros_distro) and Path(recorded[1]).exists():
        asked = shutil.which(os.environ.get("PYTHON") or recorded[1])
        if asked and os.path.realpath(asked) == os.path.realpath(recorded[1]):
            return recorded[1]
    return interpreter.choose(os.path.realpath(sys.executable), ros_distro).executable


def _create_environment(python: Interpreter, ros_distro: str | None, report: Report) -> None:
    if VENV.exists():
        report.say("      replacing the one that is there")
        shutil.rmtree(VENV)
    command = [python.executable, "-m", "venv", str(VENV)]
    if ros_distro:
        command += ["--system-site-packages"]
    if report.run(command, status="creating") != 0:
        raise SetupError(f"could not create {VENV} with {python.executable}")
    packages.install_pip(PYTHON, LOCK, report)


def _install_packages(ros_distro: str | None, torch: str, report: Report) -> None:
    ros_numpy = None
    if ros_distro:
        ros_numpy = _ask_environment("import numpy; print(numpy.__version__)")
        packages.require_numpy(ros_numpy, ros_distro)
    torch_pin, cpu_build = packages.pin_torch(PYTHON, LOCK, torch, report)
    wanted = packages.wanted(TOOLS, ros_numpy=ros_numpy, torch_pin=torch_pin, cpu_build=cpu_build)
    packages.install(PYTHON, wanted, VENV / ".setup", report)


def _ask_environment(program: str) -> str:
    """What a program prints in the environment.

    Raises:
        SetupError: it fails there; carries its last line.
    """
    answer = subprocess.run([str(PYTHON), "-c", program], capture_output=True, text=True)
    if answer.returncode != 0:
        raise SetupError(f"'{program}' fails in {VENV}: {answer.stderr.strip().splitlines()[-1]}")
    return answer.stdout.strip()


@contextlib.contextmanager
def _alone(report: Report) -> Iterator[None]:
    """Two set-ups of one checkout at the same time would spoil each other: the second waits."""
    with (ROOT / "log" / "setup.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report.say("another set-up of this checkout is running; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
