"""The measurement of what the bridge adds goes through the real guard."""

from agibot_bringup.bridge.bench import added
from dreamzero_policy.runtime.contract import load_contract

from .conftest import CONTRACT_FILE


def test_all_commands_and_reports_of_a_hundred_hertz_pass() -> None:
    commands, reports = added(load_contract(CONTRACT_FILE), 200)
    assert len(commands.wall_s) == len(reports.wall_s) == len(commands.cpu_s) == 200
