"""The set-up keeps its word: paths mended, missing system packages named, nothing done twice, everything found."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import lock  # noqa: E402
from workspace_setup import build, packages, system, wheels  # noqa: E402
from workspace_setup.report import Report, SetupError  # noqa: E402
from workspace_setup.stamps import Stamps, digest, digest_files  # noqa: E402


@pytest.mark.parametrize("python", ["310", "311", "312", "313"])
def test_the_builders_paths_are_replaced_by_this_environments(tmp_path: Path, python: str) -> None:
    dotted = f"3.{python[1:]}"
    builder = f"/opt/python/cp{python}-cp{python}"
    exported = tmp_path / "share" / "std_msgs" / "cmake" / "export_std_msgs__rosidl_generator_pyExport.cmake"
    exported.parent.mkdir(parents=True)
    exported.write_text(
        f'INTERFACE_INCLUDE_DIRECTORIES "${{_IMPORT_PREFIX}}/include/std_msgs;'
        f'{builder}/include/python{dotted};{builder}/lib/python{dotted}/site-packages/numpy/_core/include"\n'
    )
    untouched = tmp_path / "share" / "std_msgs" / "cmake" / "std_msgsConfig.cmake"
    untouched.write_text('set(std_msgs_DIR "/usr/include/python3.11")\n')

    changed = wheels.rewrite_paths(tmp_path, Path("/usr/include/python3.11"), Path("/venv/numpy/_core/include"))

    assert changed == [exported]
    assert exported.read_text() == (
        'INTERFACE_INCLUDE_DIRECTORIES "${_IMPORT_PREFIX}/include/std_msgs;'
        '/usr/include/python3.11;/venv/numpy/_core/include"\n'
    )
    assert wheels.rewrite_paths(tmp_path, Path("/elsewhere"), Path("/elsewhere")) == []


def test_missing_system_packages_are_named_with_the_command_that_installs_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = [
        system.Need("CMake", "cmake", lambda: False),
        system.Need("EGL", "libegl1", lambda: False),
        system.Need("make", "make", lambda: True),
    ]
    monkeypatch.setattr(system, "privilege", lambda: None)  # neither root nor passwordless sudo
    monkeypatch.setattr(system.shutil, "which", lambda name: f"/usr/bin/{name}")
    with pytest.raises(SetupError) as caught:
        system.require(wanted, Report(tmp_path / "log", 1))
    assert str(caught.value) == (
        "missing: CMake, EGL; run: sudo apt-get update && sudo apt-get install -y --no-install-recommends cmake libegl1"
    )


def test_without_apt_the_missing_things_are_named_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system.shutil, "which", lambda name: None)
    with pytest.raises(SetupError, match=r"^missing: CMake \(on Debian and Ubuntu: cmake\)"):
        system.require([system.Need("CMake", "cmake", lambda: False)], Report(tmp_path / "log", 1))


def test_a_step_is_current_until_what_it_depends_on_changes(tmp_path: Path) -> None:
    stamps = Stamps(tmp_path / "stamps")
    assert not stamps.current("packages", digest("lock 1"))
    stamps.write("packages", digest("lock 1"))
    assert stamps.current("packages", digest("lock 1"))
    assert not stamps.current("packages", digest("lock 2"))
    stamps.clear("packages")
    assert not stamps.current("packages", digest("lock 1"))


def test_the_border_between_two_parts_counts() -> None:
    assert digest("ab", "c") != digest("a", "bc")


def test_a_file_counts_by_contents_or_by_presence(tmp_path: Path) -> None:
    message, launch = tmp_path / "A.msg", tmp_path / "demo.launch.py"
    message.write_text("int32 a")
    launch.write_text("one")
    before = digest_files(tmp_path, [message], [launch])
    launch.write_text("two")  # installed as a link: the change is there already
    assert digest_files(tmp_path, [message], [launch]) == before
    message.write_text("int64 a")  # generates other code
    assert digest_files(tmp_path, [message], [launch]) != before
    message.write_text("int32 a")
    assert digest_files(tmp_path, [message], []) != before


def test_the_build_depends_on_messages_and_kernels_and_not_on_python_sources(tmp_path: Path) -> None:
    package = tmp_path / "src" / "a"
    for file in (
        tmp_path / "package.xml",
        package / "package.xml",
        package / "msg" / "A.msg",
        package / "a" / "code.py",
        package / "a" / "runtime" / "kernels.c",
    ):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("1")
    before = build.inputs_digest(tmp_path)
    (package / "a" / "code.py").write_text("2")
    assert build.inputs_digest(tmp_path) == before
    (package / "msg" / "A.msg").write_text("2")
    changed = build.inputs_digest(tmp_path)
    assert changed != before
    (package / "a" / "runtime" / "kernels.c").write_text("2")
    assert build.inputs_digest(tmp_path) not in (before, changed)


def test_every_package_is_pinned_exactly() -> None:
    pins = packages.lines_of(ROOT / "tools" / "requirements.lock")
    exact = re.compile(r"[\w.-]+==[\w.]+( ; python_version (<|>=) \"3\.1\d\"( and .*)?)?")
    assert [pin for pin in pins if not exact.fullmatch(pin)] == []
    names = {re.split(r"[=<> ]", pin)[0].lower().replace("_", "-") for pin in pins}
    asked = packages.lines_of(ROOT / "tools" / "requirements.in")
    assert {re.split(r"[=<> ]", line)[0].lower().replace("_", "-") for line in asked} <= names


def test_everything_installed_is_what_the_lock_says() -> None:
    record = ROOT / ".venv" / ".setup" / "constraints.txt"
    if not record.is_file():
        pytest.fail(f"{record} is missing; run make setup")
    pins = {
        canonicalize_name(pin.name): pin.specifier
        for pin in map(Requirement, packages.lines_of(record))
        if pin.marker is None or pin.marker.evaluate()
    }
    command = [sys.executable, "-m", "pip", "list", "--local", "--format", "json"]
    listed = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    installed = {canonicalize_name(entry["name"]): entry["version"] for entry in listed}
    # The ROS 2 wheels also bring the metadata of the Python modules inside them, and colcon writes that of ours.
    site = Path(sysconfig.get_path("purelib"))
    inside = {canonicalize_name(path.name.split("-")[0]) for path in site.glob("*.egg-info")}
    ours = {"agibot-bringup", "agibot-twin", "dreamzero-msgs", "dreamzero-policy"}
    assert set(installed) - set(pins) - inside - ours == set()
    assert {name: version for name, version in installed.items() if name in pins and version not in pins[name]} == {}


def test_a_sourced_ros_keeps_its_own_numpy_and_brings_its_own_packages() -> None:
    wanted = packages.wanted(ROOT / "tools", ros_numpy="1.26.4", torch_pin="torch==2.13.0+cpu", cpu_build=True)
    assert "numpy==1.26.4" in wanted.constraints
    assert not [line for line in wanted.requirements if line.startswith(("ros-jazzy", "numpy", "cv-bridge", "opencv"))]
    assert "mujoco==3.11.0" in wanted.requirements
    assert sum(line.startswith("torch") for line in wanted.constraints) == 1


def test_a_ros_with_an_older_numpy_is_told_what_it_can_build() -> None:
    packages.require_numpy("1.26.4", "jazzy")
    with pytest.raises(
        SetupError, match=r"humble has numpy 1\.21\.5, .* --packages-select dreamzero_msgs agibot_bringup"
    ):
        packages.require_numpy("1.21.5", "humble")


def test_pythons_that_agree_share_a_pin_and_others_get_a_marker() -> None:
    answers = {
        "3.10": {"a": "1", "torch": "2", "cuda": "12"},
        "3.11": {"a": "2", "torch": "2+cpu"},  # a CPU build asks for no CUDA, but a default build would
        "3.12": {"a": "2", "torch": "2", "cuda": "13"},
        "3.9": {"a": "1"},
    }
    assert lock.lock_lines(answers) == [
        'a==1 ; python_version < "3.11"',
        'a==2 ; python_version >= "3.11"',
        'cuda==12 ; python_version < "3.12"',
        'cuda==13 ; python_version >= "3.12"',
        "torch==2",
    ]


def test_pip_output_becomes_megabytes_of_the_whole() -> None:
    progress = packages._PipProgress(504.0)
    progress.read("  Using cached torch-2.13.0-cp311.whl (191.8 MB)\n")
    progress.read("  Downloading scipy-1.17.1-cp311.whl (35.3 MB)\n")
    assert progress.read("Progress 10000000 of 35300000\n") == "202 of 504 MB  scipy"
    assert progress.read("Installing collected packages: a, b, c\n") == "installing 3 packages"
    progress.read("ERROR: No matching distribution found for scipy==1.17.1\n")
    assert progress.error == "No matching distribution found for scipy==1.17.1"


def test_a_torch_build_of_no_kind_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH", "rocm")
    with pytest.raises(SetupError, match="TORCH is 'rocm', but must be cpu or cuda"):
        packages.torch_choice("")


def test_the_build_of_torch_stays_what_it_was_until_another_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCH", raising=False)
    assert packages.torch_choice("cuda") == "cuda"
    monkeypatch.setenv("TORCH", "cpu")
    assert packages.torch_choice("cuda") == "cpu"


def test_python_finds_messages_and_packages_with_nothing_sourced_also_in_a_subprocess(tmp_path: Path) -> None:
    program = "import dreamzero_msgs.msg as m, dreamzero_policy, agibot_twin, os; m.PolicyStatus(); print(os.getcwd())"
    nested = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {program!r}], env={{}}, check=True)"
    ran = subprocess.run(
        [str(ROOT / ".venv" / "bin" / "python"), "-c", nested],
        cwd=tmp_path,
        env={"PATH": os.defpath, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == str(tmp_path)


@pytest.mark.workspace
@pytest.mark.timeout(600)
def test_a_second_set_up_finds_nothing_to_do() -> None:
    first, second = (subprocess.run([ROOT / "tools" / "setup"], cwd="/", capture_output=True, text=True) for _ in "12")
    assert first.returncode == 0, first.stdout
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")
