"""config/policy.yaml shows every parameter with the default the node has."""

from pathlib import Path

import yaml

from dreamzero_policy.ros.parameters import PARAMETERS

POLICY_YAML = Path(__file__).parents[4] / "config" / "policy.yaml"


def test_the_parameter_file_shows_every_parameter_with_its_default() -> None:
    shown = yaml.safe_load(POLICY_YAML.read_text())["/**/policy_node"]["ros__parameters"]
    assert shown == {parameter.name: parameter.default for parameter in PARAMETERS}


def test_every_parameter_is_described_and_numbers_have_a_range_or_a_unit_in_the_name() -> None:
    for parameter in PARAMETERS:
        assert parameter.description.endswith("."), parameter.name
        if isinstance(parameter.default, float):
            assert parameter.name.endswith(("_s", "_hz", "_share", "_percentile")), parameter.name
        if isinstance(parameter.default, int | float) and not isinstance(parameter.default, bool):
            assert parameter.low < parameter.high, parameter.name
