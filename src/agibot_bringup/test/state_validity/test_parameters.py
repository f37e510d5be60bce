"""config/state_validity.yaml shows every parameter with the default the node has."""

from pathlib import Path

import yaml

from agibot_bringup.safety_gate.parameters import PARAMETERS as OF_THE_GATE
from agibot_bringup.state_validity.parameters import PARAMETERS

FILE = Path(__file__).parents[2] / "config" / "state_validity.yaml"
DEFAULT = {name: default for name, (default, _, _) in PARAMETERS.items()}


def test_the_parameter_file_shows_every_parameter_with_its_default() -> None:
    shown = yaml.safe_load(FILE.read_text())["/**/state_validity"]["ros__parameters"]
    assert shown == DEFAULT


def test_every_number_has_a_range_and_every_time_its_unit() -> None:
    for name, (default, description, allowed) in PARAMETERS.items():
        assert description.endswith("."), name
        if isinstance(default, float):
            assert name.endswith("_s") and allowed[0] <= default <= allowed[1], name


def test_one_answer_that_does_not_come_is_noticed_before_the_gate_calls_the_lookout_silent() -> None:
    allowed, _, _ = OF_THE_GATE["state_validity_timeout_s"]
    assert DEFAULT["period_s"] + DEFAULT["timeout_s"] < allowed
