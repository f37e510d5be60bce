"""Stands in for the maker's SDK in the bridge's process: a robot at rest, whose calls fail while a file names them."""

import os
import time
from collections.abc import Callable
from pathlib import Path

FAULTS = "FAKE_SDK_FAULTS"  # environment variable with the file's path
REPORTS = {
    "arm_joint_states": [0.1] * 14,
    "gripper_states": [55.0, 55.0],
    "head_joint_states": [0.1, 0.1],
    "waist_joint_states": [0.3, 41.0],
}


def fail_if_told(name: str) -> None:
    if name in Path(os.environ[FAULTS]).read_text().split():
        raise RuntimeError("link lost")


class RobotDds:
    """See the module's docstring."""

    def __init__(self) -> None:
        fail_if_told("RobotDds")

    def __getattr__(self, name: str) -> Callable[..., tuple[list[float], int] | None]:
        def call(*_: list[float]) -> tuple[list[float], int] | None:
            fail_if_told(name)
            return (REPORTS[name], time.monotonic_ns()) if name in REPORTS else None

        return call
