"""JointTrajectory messages as their bytes on the wire (CDR, little endian), read and written by numpy.

Making the sixty point objects of a message takes longer than all else that the gate does to it. A point with J
positions and J velocities is one record of the same length, so that all of them are one array:

    offset   0            8           8 + 8 J        16 + 8 J     16 + 16 J                24 + 16 J
             J (uint32)   J doubles   J (uint32)     J doubles    0, 0: accelerations,     sec (int32),
             4 idle                   4 idle                      effort (uint32 each)     nanosec (uint32)

Doubles lie at multiples of 8. Where the first point begins 4 beyond one, its first idle bytes are left out, and the
records behind it are in place again. Whatever is not of this form is left to ROS's own deserializer.
"""

import struct
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from agibot_bringup.safety_gate.trajectory import ReceivedArrays
from dreamzero_policy.runtime.observation import NS_PER_S
from dreamzero_policy.runtime.plan import Plan

HEADER = b"\x00\x01\x00\x00"  # CDR, little endian; offsets are counted from behind it


@lru_cache(maxsize=32)
def _records(joints: int) -> np.dtype:
    """One point."""
    fields = [("n", "<u4"), ("idle", "<u4"), ("positions", "<f8", (joints,))]
    fields += [("n_velocities", "<u4"), ("idle_too", "<u4"), ("velocities", "<f8", (joints,))]
    fields += [("n_accelerations", "<u4"), ("n_effort", "<u4"), ("sec", "<i4"), ("nanosec", "<u4")]
    return np.dtype(fields)


class Writer:
    """Messages for the same joints, stamp zero."""

    def __init__(self, joints: Sequence[str]) -> None:
        head = bytearray(8) + struct.pack("<I", 1) + b"\x00"  # stamp, and an empty frame_id
        head += _padding(len(head), 4) + struct.pack("<I", len(joints))
        for joint in joints:
            text = joint.encode() + b"\x00"
            head += _padding(len(head), 4) + struct.pack("<I", len(text)) + text
        head += _padding(len(head), 4)
        self._head = HEADER + bytes(head)
        self._drop = (len(head) + 4) % 8 != 0  # the count of points lies in between
        self._dtype, self._joints = _records(len(joints)), len(joints)

    def data(self, plan: Plan, now_ns: int) -> bytes:
        """The plan, told at `now_ns`."""
        records = np.zeros(len(plan.knots_ns), self._dtype)
        records["n"] = records["n_velocities"] = self._joints
        records["positions"], records["velocities"] = plan.positions, plan.velocities
        records["sec"], records["nanosec"] = np.divmod(plan.knots_ns - now_ns, NS_PER_S)
        told = records.tobytes()
        if self._drop:
            told = told[:4] + told[8:]
        return self._head + struct.pack("<I", len(records)) + told


def read(data: bytes) -> ReceivedArrays | None:
    """What a message says; None where it is not of the form above."""
    if data[:4] != HEADER:
        return None
    body = memoryview(data)[4:]
    try:
        sec, nanosec, length = struct.unpack_from("<iII", body)
        at = _aligned(12 + length, 4)
        (count,) = struct.unpack_from("<I", body, at)
        at, joints = at + 4, []
        for _ in range(count):
            at = _aligned(at, 4)
            (length,) = struct.unpack_from("<I", body, at)
            joints.append(bytes(body[at + 4 : at + 3 + length]).decode())
            at += 4 + length
        at = _aligned(at, 4)
        (points,) = struct.unpack_from("<I", body, at)
    except (struct.error, UnicodeDecodeError):
        return None
    return _points(body, at + 4, points, joints, sec * NS_PER_S + nanosec)


def _points(body: memoryview, at: int, count: int, joints: list[str], stamp_ns: int) -> ReceivedArrays | None:
    if count == 0 or not joints:
        return None
    dtype, short = _records(len(joints)), 4 if at % 8 else 0
    if len(body) < at + count * dtype.itemsize - short:  # spare bytes behind the end are nothing bad
        return None
    told = bytes(body[at : at + 4]) + bytes(4) + bytes(body[at + 4 :]) if short else bytes(body[at:])
    records = np.frombuffer(told, dtype, count)
    width = len(joints)
    if not (
        (records["n"] == width).all()
        and (records["n_velocities"] == width).all()
        and not (records["n_accelerations"].any() or records["n_effort"].any())
    ):
        return None
    after_ns = records["sec"].astype(np.int64) * NS_PER_S + records["nanosec"]
    return ReceivedArrays(joints, after_ns, records["positions"], records["velocities"], stamp_ns)


def _aligned(at: int, to: int) -> int:
    return -(-at // to) * to


def _padding(length: int, to: int) -> bytes:
    return bytes(-length % to)
