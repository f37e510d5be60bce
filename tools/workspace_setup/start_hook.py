"""Gives every Python of this environment the ROS environment that sourcing a set-up file would give it.

Copied into site-packages and imported by a .pth file when Python starts, so that `.venv/bin/python` finds the built
messages from any folder and in every subprocess. The dynamic loader reads its path only when a process begins: where
that path lacks something, Python starts itself once more. Imports os and sys alone, since every start pays for it.
"""

import os
import sys

from _dreamzero_environment import PREPEND, SET

# Sourcing a set-up file runs this script to learn what the shell lacks; it must see the shell's own environment.
WRITES_SHELL_ENVIRONMENT = "_local_setup_util_sh.py"


def missing_folders(current: dict[str, str]) -> dict[str, str]:
    """New values of the path variables that lack a folder: the missing ones in front of what is there."""
    changes = {}
    for name, folders in PREPEND.items():
        present = [folder for folder in current.get(name, "").split(os.pathsep) if folder]
        absent = [folder for folder in folders if folder not in present]
        if absent:
            changes[name] = os.pathsep.join(absent + present)
    return changes


def enter() -> None:
    """Complete the environment of this process, starting it once more if the loader path was not complete."""
    os.environ.update(SET)
    if any(argument.endswith(WRITES_SHELL_ENVIRONMENT) for argument in sys.orig_argv[1:2]):
        return
    changes = missing_folders(dict(os.environ))
    os.environ.update(changes)
    if "LD_LIBRARY_PATH" in changes:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ)
    for folder in reversed(PREPEND.get("PYTHONPATH", ())):
        if folder not in sys.path:
            sys.path.insert(0, folder)


enter()
