"""A clock that was set is noticed, one that runs is not."""

from dreamzero_policy.runtime.clock import ClockWatch
from dreamzero_policy.runtime.observation import NS_PER_S


def test_a_clock_that_was_set_either_way_is_noticed_once() -> None:
    watch = ClockWatch(0.5)
    readings = [(100.0, 1.0), (100.05, 1.05), (103.1, 1.1), (103.15, 1.15), (98.2, 1.2), (98.25, 1.25)]
    noticed = [watch.jumped(round(now * NS_PER_S), round(steady * NS_PER_S)) for now, steady in readings]
    assert noticed == [False, False, True, False, True, False]


def test_a_node_that_slept_or_a_clock_that_is_slewed_is_no_jump() -> None:
    watch = ClockWatch(0.5)
    assert not watch.jumped(100 * NS_PER_S, NS_PER_S)
    assert not watch.jumped(160 * NS_PER_S, 61 * NS_PER_S)
    assert not watch.jumped(round(161.3 * NS_PER_S), 62 * NS_PER_S)
