"""config/bridge.yaml shows every parameter with the default the node has; bridge_sdk.yaml changes only known ones."""

from pathlib import Path

import yaml

from agibot_bringup.bridge.parameters import PARAMETERS

CONFIG = Path(__file__).parents[2] / "config"


def shown(file: str) -> dict:
    return yaml.safe_load((CONFIG / file).read_text())["/**/bridge"]["ros__parameters"]


def test_the_parameter_file_shows_every_parameter_with_its_default() -> None:
    assert shown("bridge.yaml") == {name: default for name, (default, _, _) in PARAMETERS.items()}


def test_the_sdk_changes_known_parameters_and_nothing_it_need_not() -> None:
    changed = shown("bridge_sdk.yaml")
    assert set(changed) <= set(PARAMETERS)
    assert all(type(value) is type(PARAMETERS[name][0]) for name, value in changed.items())


def test_the_step_cannot_be_set_beyond_the_firmwares() -> None:
    default, _, (_, highest) = PARAMETERS["max_step_rad"]
    assert default == highest == 0.2618


def test_every_number_has_a_range_and_every_parameter_a_sentence() -> None:
    for name, (default, description, allowed) in PARAMETERS.items():
        assert description.endswith("."), name
        if isinstance(default, float):
            assert allowed[0] <= default <= allowed[1], name
