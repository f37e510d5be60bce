"""The measurement of what the bridge adds goes through the real guard, and the bridge is quick."""

from statistics import median

from agibot_bringup.bridge.bench import added_s
from dreamzero_policy.runtime.contract import load_contract

from .conftest import CONTRACT_FILE


def test_commands_and_reports_of_a_hundred_hertz_pass_in_less_than_a_millisecond() -> None:
    """The median: a machine that does other work at the same time says nothing by its slowest ones."""
    commands, reports = added_s(load_contract(CONTRACT_FILE), 200)
    assert len(commands) == len(reports) == 200
    assert median(commands) < 1e-3 and median(reports) < 1e-3
