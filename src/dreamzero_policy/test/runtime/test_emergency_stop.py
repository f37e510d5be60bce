"""The emergency stop is latched, released by hand only, and where it is required its silence is a stop."""

import pytest

from dreamzero_policy.runtime import emergency_stop
from dreamzero_policy.runtime.emergency_stop import EmergencyStop
from dreamzero_policy.runtime.faults import Fault
from dreamzero_policy.runtime.observation import NS_PER_S


class Clock:
    """The monotonic clock, moved by hand."""

    def __init__(self) -> None:
        self.ns = 5 * NS_PER_S

    def monotonic_ns(self) -> int:
        return self.ns


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(emergency_stop, "time", clock)
    return clock


def fault(stop: EmergencyStop) -> Fault | None:
    trouble = stop.trouble()
    return trouble.fault if trouble else None


def test_a_stop_is_latched_and_a_reset_is_refused_while_it_is_true(clock: Clock) -> None:
    stop = EmergencyStop()
    assert fault(stop) is None
    stop.hear(True)
    assert fault(stop) is Fault.ESTOP and "release it first" in stop.reset()
    stop.hear(False)
    assert fault(stop) is Fault.ESTOP
    assert stop.reset() == "" and fault(stop) is None


def test_silence_means_nothing_where_no_stop_is_required(clock: Clock) -> None:
    stop = EmergencyStop()
    stop.hear(False)
    clock.ns += 3600 * NS_PER_S
    assert fault(stop) is None


def test_where_a_stop_is_required_nothing_moves_before_it_was_heard(clock: Clock) -> None:
    stop = EmergencyStop()
    stop.demand(0.5)
    assert fault(stop) is Fault.ESTOP_SILENT
    stop.hear(False)
    assert fault(stop) is None


def test_where_a_stop_is_required_its_silence_is_a_latched_stop(clock: Clock) -> None:
    stop = EmergencyStop()
    stop.demand(0.5)
    stop.hear(False)
    clock.ns += int(0.6 * NS_PER_S)
    assert "let it be heard" in stop.reset()
    stop.hear(False)  # nobody looked while it was silent, and it is a stop all the same
    assert fault(stop) is Fault.ESTOP_SILENT
    assert stop.reset() == "" and fault(stop) is None


def test_a_new_demand_does_not_release_a_stop(clock: Clock) -> None:
    stop = EmergencyStop()
    stop.hear(True)
    stop.demand(0.5)
    assert fault(stop) is Fault.ESTOP
