"""Gives every Python of this environment the ROS environment that sourcing a set-up file would give it.

Copied into site-packages and imported by a .pth file when Python starts, so that `.venv/bin/python` finds the built messages
from any folder and in every subprocess. The dynamic loader reads its path only when a process begins: where
that path lacks something, Python starts itself once more. Imports os and sys alone, since every start pays for it.
"""

import os
import sys

from _dreamzero_environment import PREPEND, SET


def environment(current: dict[str, str]) -> dict[str, str]:
    """What to change in the environment `current`: each folder that is missing goes in front, what is set elsewhere stays."""
    changes = {name: value for name, value in SET.items() if current.get(name) != value}
    for name, folders in PREPEND.items():
        present = [folder for folder in current.get(name, "").split(os.pathsep) if folder]
        absent = [folder for folder in folders if folder not in present]
        if absent:
            changes[name] = os.pathsep.join(absent + present)
    return changes


def enter() -> None:
    """Apply the changes to this process, starting it once more if the loader path is among them."""
    changes = environment(dict(os.environ))
    os.environ.update(changes)
    if "LD_LIBRARY_PATH" in changes:
        sys.stdout.flush()
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ)
    for folder in reversed(PREPEND.get("PYTHONPATH", ())):
        if folder not in sys.path:
            sys.path.insert(0, folder)


enter()
