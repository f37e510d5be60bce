"""Builds a message package for the tests, once for each state of its definitions, and lets this process use it.

Real type support, so that a node and who stands in for the robot or for MoveIt talk over real topics of real types.
"""

import ctypes
import hashlib
import os
import subprocess
import sys
from pathlib import Path

BUILD = Path(__file__).parents[3] / "build"  # beside what colcon makes, which ignores the rest
DEFINITIONS = (".msg", ".srv", ".txt", ".xml")


def installed(source: Path) -> Path:
    """Prefix of the built package, which has the name of its folder."""
    digest = hashlib.sha256()
    for file in sorted(path for path in source.rglob("*") if path.suffix in DEFINITIONS):
        digest.update(file.read_bytes())
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    place = BUILD / f"test_{source.name}" / f"{digest.hexdigest()[:16]}-{version}"
    prefix, stamp = place / "install", place / "complete"
    if not stamp.exists():
        environment = os.environ | {
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
            "CMAKE_PREFIX_PATH": os.environ["AMENT_PREFIX_PATH"],
        }
        configure = ["cmake", "-S", str(source), "-B", str(place / "build"), f"-DCMAKE_INSTALL_PREFIX={prefix}"]
        configure += [f"-DPython3_EXECUTABLE={sys.executable}", "-DBUILD_TESTING=OFF"]
        for command in (
            configure,
            ["cmake", "--build", str(place / "build"), "--target", "install", "--parallel", "2"],
        ):
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        stamp.touch()
    return prefix


def environment(prefix: Path) -> dict[str, str]:
    """What a process needs to use the package."""
    site = next(prefix.rglob("msg/__init__.py")).parents[2]
    added = {"AMENT_PREFIX_PATH": prefix, "LD_LIBRARY_PATH": prefix / "lib", "PYTHONPATH": site}
    return {
        name: os.pathsep.join(filter(None, [str(folder), os.environ.get(name, "")])) for name, folder in added.items()
    }


def use(prefix: Path) -> None:
    """Let this process, whose loader has long read its path, import the package."""
    values = environment(prefix)
    os.environ.update(values)
    sys.path.insert(0, values["PYTHONPATH"].split(os.pathsep)[0])
    libraries = sorted((prefix / "lib").glob("lib*__*.so"), key=lambda path: "generator" not in path.name)
    for _ in libraries:  # they need each other, in an order that their names do not tell
        libraries = [library for library in libraries if not _loads(library)]
    assert not libraries, f"cannot be loaded: {libraries}"


def _loads(library: Path) -> bool:
    try:
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    except OSError:
        return False
    return True
