"""JointTrajectory messages straight to their bytes on the wire.

A plan has some forty points and goes to five controllers. Building that many message objects costs several
milliseconds of the time between a prediction and its command; all points of a message have the same layout, so numpy
writes them at once. `trajectory_messages` in `messages.py` is the plain way to the same message.

CDR, little endian: sequences are a 32-bit count and their items, numbers stand at multiples of their size counted from
behind the 4-byte header (OMG DDS-XTypes 1.3, 7.4.1).
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from dreamzero_policy.runtime.contract import Controller
from dreamzero_policy.runtime.observation import NS_PER_S
from dreamzero_policy.runtime.plan import Plan

ENCAPSULATION = b"\x00\x01\x00\x00"  # CDR, little endian


def trajectory_bytes(plan: Plan, joints: Sequence[str], controllers: Sequence[Controller], now_ns: int) -> list[bytes]:
    """What is left of a plan, one serialized JointTrajectory a controller; see `messages.trajectory_messages`."""
    seconds, nanoseconds = np.divmod(plan.knots_ns - now_ns, NS_PER_S)
    messages = []
    for controller in controllers:
        columns = [joints.index(joint) for joint in controller.joints]
        points = np.zeros(len(seconds), _point(len(columns)))
        points["positions_count"] = points["velocities_count"] = len(columns)
        points["positions"] = plan.positions[:, columns]
        points["velocities"] = plan.velocities[:, columns]
        points["sec"], points["nanosec"] = seconds, nanoseconds
        head = _head(controller.joints) + np.uint32(len(points)).tobytes()
        body = points.tobytes()
        if (len(head) - len(ENCAPSULATION)) % 8:  # the first count ends where its doubles may begin
            body = body[:4] + body[8:]
        messages.append(head + body)
    return messages


@lru_cache
def _point(joints: int) -> np.dtype:
    """A JointTrajectoryPoint that begins at a multiple of 8, without accelerations and effort."""
    return np.dtype(
        [
            ("positions_count", "<u4"),
            ("positions_gap", "<u4"),
            ("positions", "<f8", joints),
            ("velocities_count", "<u4"),
            ("velocities_gap", "<u4"),
            ("velocities", "<f8", joints),
            ("accelerations_count", "<u4"),
            ("effort_count", "<u4"),
            ("sec", "<i4"),
            ("nanosec", "<u4"),
        ]
    )


@lru_cache
def _head(joints: tuple[str, ...]) -> bytes:
    """Everything before the number of points: stamp zero, no frame, the joints' names. Padded to a multiple of 4."""
    data = ENCAPSULATION + bytes(8) + _string("") + np.uint32(len(joints)).tobytes()
    return data + b"".join(map(_string, joints))


def _string(text: str) -> bytes:
    """Length with the closing zero, text, closing zero, and zeros up to the next count."""
    data = text.encode() + b"\x00"
    return np.uint32(len(data)).tobytes() + data + bytes(-len(data) % 4)
