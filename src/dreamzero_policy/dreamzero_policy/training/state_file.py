"""Files that a run continues from: whole or not at all, on disk when the call returns."""

import os
from pathlib import Path
from typing import Any

import torch


class StateError(RuntimeError):
    """A state file that cannot be written or read; the message names it."""


def write_state(state: dict[str, Any], path: Path) -> None:
    """Write aside, then put in place.

    Raises:
        StateError: the disk is full or cannot be written; an older file is still as it was.
    """
    aside = path.with_name(path.name + ".part")
    try:
        with aside.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except (OSError, RuntimeError) as error:
        aside.unlink(missing_ok=True)
        kept = "the one written before is still there" if path.exists() else "nothing was written before"
        raise StateError(f"{path} cannot be written: {error}; {kept}") from error


def read_state(path: Path) -> dict[str, Any]:
    """Tensors and plain values; nothing that the file contains is executed. Raises StateError."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises its own, zipfile's and its unpickler's errors
        raise StateError(f"{path} cannot be read: {str(error).splitlines()[0]}; remove it to begin again") from error
    if not isinstance(state, dict):
        raise StateError(f"{path} is not the state of a training")
    return state
