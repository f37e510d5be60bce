"""The table, ranges and settings of the shipped parameters, and a guard on them whose time is moved by hand."""

from pathlib import Path

import pytest

from agibot_bringup.bridge.guard import Guard, Settings
from agibot_bringup.bridge.parameters import PARAMETERS
from agibot_bringup.bridge.units import Table, Units, unit_table
from dreamzero_policy.runtime.contract import load_contract

from .scene import Scene

CONTRACT_FILE = Path(__file__).parents[4] / "config" / "agibot_g1.yaml"
DEFAULT = {name: default for name, (default, _, _) in PARAMETERS.items()}
UNITS = Units(
    head=DEFAULT["head_unit"],
    waist_pitch=DEFAULT["waist_pitch_unit"],
    lift_feedback=DEFAULT["lift_feedback_unit"],
    lift_command=DEFAULT["lift_command_unit"],
    gripper_feedback=(DEFAULT["gripper_feedback_open"], DEFAULT["gripper_feedback_closed"]),
    gripper_command=(DEFAULT["gripper_command_open"], DEFAULT["gripper_command_closed"]),
)
SETTINGS = Settings(
    period_s=1 / DEFAULT["rate_hz"],
    feedback_timeout_s=DEFAULT["feedback_timeout_s"],
    command_timeout_s=DEFAULT["command_timeout_s"],
    max_step_rad=DEFAULT["max_step_rad"],
    max_step_m=DEFAULT["max_step_m"],
    max_first_step_rad=DEFAULT["max_first_step_rad"],
    max_first_step_m=DEFAULT["max_first_step_m"],
    range_tolerance_rad=DEFAULT["range_tolerance_rad"],
    range_tolerance_m=DEFAULT["range_tolerance_m"],
)


@pytest.fixture(scope="session")
def ranges() -> dict[str, tuple[float, float]]:
    limits = load_contract(CONTRACT_FILE).site.limits
    return {joint: (limit.lower, limit.upper) for joint, limit in limits.items()}


@pytest.fixture
def units() -> Units:
    return UNITS


@pytest.fixture
def table(units: Units) -> Table:
    return unit_table(units)


@pytest.fixture
def scene(table: Table, ranges: dict[str, tuple[float, float]]) -> Scene:
    return Scene(Guard(table, ranges, SETTINGS), table)
