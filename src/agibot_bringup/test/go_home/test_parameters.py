"""config/go_home.yaml shows every parameter with its default."""

import yaml

from agibot_bringup.description import share_folder
from agibot_bringup.go_home.node import PARAMETERS


def test_the_parameter_file_shows_the_defaults() -> None:
    (section,) = yaml.safe_load((share_folder() / "config" / "go_home.yaml").read_text()).values()
    assert section["ros__parameters"] == {name: default for name, (default, _, _) in PARAMETERS.items()}


def test_every_range_contains_its_default() -> None:
    for default, text, allowed in PARAMETERS.values():
        assert text.endswith(".") and (allowed is None or allowed[0] <= default <= allowed[1])
