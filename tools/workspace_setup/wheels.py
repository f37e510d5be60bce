"""Mends the ROS 2 wheels: their exported CMake files name folders of the machine that built them.

Two kinds of path are wrong everywhere else: the builder's Python include folder (`…/cp311-cp311/include/python3.11`)
and its numpy include folder (`…/cp311-cp311/lib/python3.11/site-packages/numpy/_core/include`), one pair for each
CPython. Both are replaced by this environment's own.
"""

from __future__ import annotations

import re
from pathlib import Path

_BUILDER = rb"[^\s;\"]*/cp3\d+-cp3\d+"
_NUMPY = re.compile(_BUILDER + rb"/lib/python3\.\d+/site-packages/numpy/_?core/include")
_PYTHON = re.compile(_BUILDER + rb"/include/python3\.\d+")


def rewrite_paths(prefix: Path, python_include: Path, numpy_include: Path) -> list[Path]:
    """Rewrite every `.cmake` file under share/ and lib/cmake/ of `prefix`; returns the files that changed."""
    changed = []
    for folder in ("share", "lib/cmake"):
        for file in sorted((prefix / folder).rglob("*.cmake")):
            before = file.read_bytes()
            after = _NUMPY.sub(str(numpy_include).encode(), before)
            after = _PYTHON.sub(str(python_include).encode(), after)
            if after != before:
                file.write_bytes(after)
                changed.append(file)
    return changed
