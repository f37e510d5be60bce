"""What is read and written as bytes is what ROS's own serializer and deserializer make of it."""

import numpy as np
import pytest
from builtin_interfaces.msg import Duration
from rclpy.serialization import deserialize_message, serialize_message
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from agibot_bringup.safety_gate import cdr
from agibot_bringup.safety_gate.messages import Outgoing, received
from agibot_bringup.safety_gate.trajectory import Received, ReceivedArrays
from dreamzero_policy.runtime.contract import Contract, Controller
from dreamzero_policy.runtime.plan import Plan

from .adversary import Adversary
from .stand import as_message

NAMES = (["a"], ["ab"], ["abc", "d"], ["abcd", "efgh", "i"], [f"idx{i}_joint" for i in range(14)])
NOW_NS = 1_700_000_000_123_456_789


def values(received: Received | ReceivedArrays) -> tuple:
    return list(received.joints), received.stamp_ns, received.after_ns.tolist(), *rows(received)


def rows(received: Received | ReceivedArrays) -> tuple[list, list]:
    """Not by `values`, which asks whether they are finite: an adversary's may be anything."""
    if isinstance(received, ReceivedArrays):
        return received.positions.tolist(), received.velocities.tolist()
    return [list(point.positions) for point in received.points], [list(point.velocities) for point in received.points]


@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize("knots", [1, 2, 60])
def test_what_is_written_is_read_by_the_deserializer_as_it_was_meant(names: list[str], knots: int) -> None:
    rng = np.random.default_rng(knots)
    plan = Plan(NOW_NS + 50_000_000 + 33_333_333 * np.arange(knots), *rng.normal(size=(2, knots, len(names))))
    data = cdr.Writer(names).data(plan, NOW_NS)
    message = Outgoing(Controller(name="c", joints=tuple(names))).message(plan, NOW_NS)
    assert deserialize_message(data, JointTrajectory) == message
    assert values(cdr.read(data)) == values(received(message))


@pytest.mark.parametrize("frame", ["", "base_link", "odd"])
@pytest.mark.parametrize("names", NAMES)
def test_a_message_is_read_as_the_deserializer_does(names: list[str], frame: str) -> None:
    message = JointTrajectory(joint_names=names)
    message.header.frame_id, message.header.stamp.sec, message.header.stamp.nanosec = frame, 12, 345
    for index in range(5):
        numbers = np.arange(len(names)) + index / 7
        point = JointTrajectoryPoint(positions=numbers.tolist(), velocities=(-numbers).tolist())
        point.time_from_start = Duration(sec=index - 1, nanosec=999_999_999)
        message.points.append(point)
    assert values(cdr.read(serialize_message(message))) == values(received(message))


def test_what_an_adversary_sends_is_read_alike_or_left_to_the_deserializer(contract: Contract) -> None:
    adversary = Adversary(contract, np.random.default_rng(3))
    read = 0
    for _ in range(300):
        message = as_message(adversary.message(lambda controller: np.zeros(len(controller.joints)), NOW_NS))
        found = cdr.read(serialize_message(message))
        if found is not None:
            np.testing.assert_equal(values(found), values(received(message)))
            read += 1
    assert read > 150, "most are of the plain form"


def test_bytes_that_are_no_message_are_left_alone() -> None:
    names = NAMES[-1]
    good = cdr.Writer(names).data(Plan(NOW_NS + np.array([1, 2]) * 10**9, *np.zeros((2, 2, len(names)))), NOW_NS)
    rng = np.random.default_rng(5)
    assert cdr.read(good) is not None
    assert all(cdr.read(good[:length]) is None for length in range(len(good)))
    for _ in range(500):
        spoilt = bytearray(good)
        spoilt[rng.integers(len(good) // 2)] = rng.integers(256)
        cdr.read(bytes(spoilt))  # something else, or nothing: never an exception
        assert cdr.read(bytes(rng.integers(0, 256, rng.integers(0, 300), np.uint8))) is None
