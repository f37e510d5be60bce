"""A relay hands messages on byte for byte, but for what it was told to do to them."""

import math

import pytest
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import JointState

from dreamzero_policy.ros.fault_relay import Passage, shifted, without_numbers
from dreamzero_policy.ros.messages import to_ns, to_stamp

S = 1_000_000_000


def message(stamp_ns: int, position: float = 0.5) -> bytes:
    state = JointState(name=["elbow"], position=[position])
    state.header.stamp = to_stamp(stamp_ns)
    return bytes(serialize_message(state))


def read(data: bytes) -> tuple[int, float]:
    state = deserialize_message(data, JointState)
    return to_ns(state.header.stamp), state.position[0]


@pytest.fixture
def passage() -> tuple[Passage, list[bytes]]:
    sent: list[bytes] = []
    return Passage(sent.append), sent


def test_a_sound_passage_changes_nothing(passage: tuple[Passage, list[bytes]]) -> None:
    through, sent = passage
    data = message(3 * S)
    through.hand_on(data, 3 * S, 0)
    assert sent == [data]


def test_a_stamp_is_shifted_and_nothing_else() -> None:
    before = message(3 * S + 5)
    after = shifted(before, 100 * S - 7)
    assert read(after) == (103 * S - 2, 0.5)
    assert (after[:4], after[12:]) == (before[:4], before[12:])


def test_a_frozen_source_shows_the_old_content_under_new_stamps(passage: tuple[Passage, list[bytes]]) -> None:
    through, sent = passage
    through.hand_on(message(1 * S, 0.1), 1 * S, 0)
    through.freeze()
    through.hand_on(message(2 * S, 0.2), 2 * S, 0)
    through.heal()
    through.hand_on(message(3 * S, 0.3), 3 * S, 0)
    assert [read(data) for data in sent] == [(1 * S, 0.1), (2 * S, 0.1), (3 * S, 0.3)]


def test_delayed_messages_come_later_with_their_own_stamps(passage: tuple[Passage, list[bytes]]) -> None:
    through, sent = passage
    through.delay_s = 1.5
    for second in (1, 2, 3, 4):
        through.hand_on(message(second * S), second * S, 0)
    assert [read(data)[0] for data in sent] == [1 * S, 2 * S]


def test_swapped_messages_come_in_pairs_the_later_one_first(passage: tuple[Passage, list[bytes]]) -> None:
    through, sent = passage
    through.swapped = True
    for second in (1, 2, 3, 4):
        through.hand_on(message(second * S), second * S, 0)
    assert [read(data)[0] // S for data in sent] == [2, 1, 4, 3]


def test_joint_states_can_lose_their_numbers() -> None:
    assert math.isnan(read(without_numbers(message(S)))[1])
