"""config/safety_gate.yaml shows every parameter with the default the node has."""

from pathlib import Path

import yaml

from agibot_bringup.safety_gate.parameters import INPUTS, PARAMETERS
from dreamzero_policy.runtime.contract import Contract

FILE = Path(__file__).parents[2] / "config" / "safety_gate.yaml"


def test_the_parameter_file_shows_every_parameter_with_its_default() -> None:
    shown = yaml.safe_load(FILE.read_text())["/**/safety_gate"]["ros__parameters"]
    assert shown == {name: default for name, (default, _, _) in PARAMETERS.items()}


def test_every_number_has_a_range_and_every_time_its_unit() -> None:
    for name, (default, description, allowed) in PARAMETERS.items():
        assert description.endswith("."), name
        if isinstance(default, float):
            assert name.endswith("_s") and allowed[0] <= default <= allowed[1], name


def test_there_is_an_input_for_every_controller_of_the_shipped_contract(contract: Contract) -> None:
    assert set(INPUTS) == {"wanted/joint_trajectory"} | {
        f"wanted/{controller.name}/joint_trajectory" for controller in contract.site.controllers
    }
