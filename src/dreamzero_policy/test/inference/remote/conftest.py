"""The Franka's contract as the robot has it, and what a loop asks of a policy."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from dreamzero_policy.inference.remote.policy import RemotePolicy
from dreamzero_policy.runtime.contract import Contract, load_contract
from dreamzero_policy.runtime.policy import Answer, Purpose, Request

from ..server.conftest import arm_checkpoint, arm_contract  # noqa: F401 (a small model of the same robot)

DROID = Path(__file__).parents[5] / "config" / "droid_franka.yaml"
PATIENCE_S = 60.0
STATE = np.array([0.1, -0.6, 0.3, -2.2, 0.5, 1.7, 0.8, 0.4], np.float32)  # joints [rad] and the gripper's fraction


@pytest.fixture(scope="session")
def franka() -> Contract:
    return load_contract(DROID)


def images_of(number: int) -> Callable[[Sequence[int]], dict[str, np.ndarray]]:
    """Of block `number`: camera c shows in its frame f the grey value 100 c + 10 number + f."""

    def images(numbers: Sequence[int]) -> dict[str, np.ndarray]:
        return {
            camera: np.stack([np.full((180, 320, 3), 100 * c // 2 + 10 * number + f, np.uint8) for f in numbers])
            for c, camera in enumerate(("exterior_1", "exterior_2", "wrist"))
        }

    return images


def block(epoch: int, number: int, **changes: object) -> Request:
    """What the loop asks with block `number` of a window: one frame, then eight."""
    frames = 1 if number == 0 else 8
    values = {
        "canvas": np.zeros((frames, 352, 640, 3), np.uint8),
        "state": STATE,
        "steps": 1,
        "seed": 3,
        "sent_monotonic_ns": time.monotonic_ns(),
        "purpose": Purpose.CHUNK,
        "images": images_of(number),
    }
    return Request(epoch=epoch, **(values | changes))


def ask(epoch: int, number: int = 0, **changes: object) -> Request:
    """The same in the small model's size, without the cameras' own images."""
    canvas = np.random.default_rng(number).integers(0, 256, (1 if number == 0 else 8, 32, 32, 3), np.uint8)
    values = {"canvas": canvas, "stamps_ns": tuple(range(len(canvas))), "images": None}
    return block(epoch, number, **(values | changes))


def next_answer(policy: RemotePolicy, *kinds: type) -> Answer:
    """The next answer of one of these kinds; all in between are left out."""
    deadline = time.monotonic() + PATIENCE_S
    while not isinstance(got := policy.poll(), kinds or (object,)) or got is None:
        assert time.monotonic() < deadline, f"no {[kind.__name__ for kind in kinds]}"
        time.sleep(0.002)
    return got
