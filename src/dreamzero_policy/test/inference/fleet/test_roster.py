"""The next robot goes to the server with the most room, and to none that is full or gone."""

import pytest

from dreamzero_policy.inference.fleet.roster import JUST_SENT_S, STALE_S, NoRoom, Roster


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_robots_are_spread_by_room_also_before_the_servers_have_noticed(clock: Clock) -> None:
    roster = Roster(clock)
    roster.hear("a", left_hz=3.0, robot_hz=1.0)
    roster.hear("b", left_hz=2.0, robot_hz=1.0)
    assert sorted(roster.next() for _ in range(5)) == ["a", "a", "a", "b", "b"]
    with pytest.raises(NoRoom, match="none of 2 servers"):
        roster.next()


def test_a_server_that_is_silent_or_has_left_gets_no_robot(clock: Clock) -> None:
    roster = Roster(clock)
    roster.hear("a", 9.0, 1.0)
    roster.hear("b", 2.0, 1.0)
    roster.forget("a")
    assert roster.next() == "b"
    clock.now_s += STALE_S + 0.1
    with pytest.raises(NoRoom, match="no server is there"):
        roster.next()


def test_a_robot_counts_until_its_server_counts_it_itself(clock: Clock) -> None:
    roster = Roster(clock)
    roster.hear("a", 1.0, 1.0)
    assert roster.next() == "a"
    with pytest.raises(NoRoom):
        roster.next()
    clock.now_s += JUST_SENT_S + 0.1
    roster.hear("a", 1.0, 1.0)  # it never came
    assert roster.next() == "a"


def test_a_robot_that_asks_less_often_finds_room_where_another_does_not(clock: Clock) -> None:
    roster = Roster(clock)
    roster.hear("a", left_hz=0.7, robot_hz=1.0)
    with pytest.raises(NoRoom, match=r"asks for 1.00 chunks a second, the emptiest can promise 0.70"):
        roster.next()
    assert [roster.next(0.3), roster.next(0.3)] == ["a", "a"]
    with pytest.raises(NoRoom, match=r"asks for 0.30 chunks a second, the emptiest can promise 0.10"):
        roster.next(0.3)
