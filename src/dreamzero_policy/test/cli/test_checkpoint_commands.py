"""`dreamzero inspect` and `dreamzero convert checkpoint`, from the command line."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dreamzero_policy.cli.main import app

CONFIG = Path(__file__).parents[4] / "config"
SHIPPED = Path(__file__).parents[4] / "checkpoints" / "agibot_g1_tiny"


def run(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def inspected(*arguments: object) -> dict:
    result = run("inspect", *arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def blank_14b(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("blank") / "checkpoint"
    variant = CONFIG / "models" / "wan2_1_14b.yaml"
    result = run("convert", "checkpoint", "--meta", "--variant", variant, folder)
    assert result.exit_code == 0, result.stderr
    return folder


def test_a_14b_without_weights_is_described_from_its_headers(blank_14b):
    assert sum(file.stat().st_size for file in blank_14b.glob("*.safetensors")) > 45e9
    assert sum(file.stat().st_blocks * 512 for file in blank_14b.rglob("*")) < 2e6
    document = inspected(blank_14b)
    assert (document["variant"], document["layout"], document["complete"]) == ("wan2_1_14b", "release", True)
    assert document["parameters"] == 22_924_172_116
    counts = {name: (c["tensors"], c["parameters"]) for name, c in document["components"].items()}
    assert counts == {
        "transformer": (1317, 16_484_292_448),
        "vae": (194, 126_892_531),
        "text_encoder": (242, 5_680_910_336),
        "image_encoder": (393, 632_076_801),
    }
    assert document["geometry"]["tokens_per_frame"] == 880
    assert len(document["known_unused"]) == 16
    assert document["missing"] == document["unexpected"] == document["misfits"] == []


def test_the_shipped_checkpoint_fits_its_contract():
    document = inspected(SHIPPED, "--contract", SHIPPED / "contract.yaml")
    assert document["complete"]
    assert document["contract"]["fits"]
    assert document["contract"]["given"]["fits"]
    embodiment = document["embodiments"]["agibot_g1"]
    assert embodiment["action"]["robot_velocity"] == {"width": 2, "relative": False}
    assert set(embodiment["statistics"]["state"]["head_position"]) == {"q01", "q99"}


def test_a_contract_for_other_sizes_does_not_fit_and_the_sizes_are_named(blank_14b):
    fit = inspected(blank_14b, "--contract", SHIPPED / "contract.yaml")["contract"]["given"]
    assert not fit["fits"]
    assert fit["differences"] == ["canvas [height, width] px: (128, 128) | (352, 640)"]


def test_the_report_for_people_names_what_there_is():
    text = run("inspect", SHIPPED).stdout
    parameters = f"{inspected(SHIPPED)['components']['transformer']['parameters']:,}"
    for words in ("tiny", "complete", "transformer (DiT)", parameters, "24 actions", "agibot_g1", "fits", "q01, q99"):
        assert words in text


def test_what_is_no_checkpoint_is_one_line_and_exit_code_one(tmp_path, blank_14b):
    for path, message in (
        (tmp_path / "nowhere", "is not a checkpoint: it is not a directory"),
        (tmp_path, "is not a checkpoint: it has no config.json"),
    ):
        result = run("inspect", path, "--json")
        assert result.exit_code == 1
        assert result.stdout == ""
        assert result.stderr == f"{path} {message}\n"


def test_converting_there_and_back_keeps_the_model(tmp_path):
    for source, target, layout in ((SHIPPED, "release", "release"), (tmp_path / "release", "ours", "dreamzero")):
        result = run("convert", "checkpoint", source, tmp_path / target, "--to", layout, "--shard-mib", 4)
        assert result.exit_code == 0, result.stderr
    assert len(list((tmp_path / "release").glob("model-*.safetensors"))) > 1
    assert inspected(tmp_path / "release")["layout"] == "release"
    before, after = inspected(SHIPPED), inspected(tmp_path / "ours")
    for part in ("variant", "components", "geometry", "sampler", "embodiments", "contract"):
        assert after[part] == before[part], part


@pytest.mark.parametrize(
    "arguments",
    [
        ("a",),
        ("a", "b", "--meta", "--variant", "tiny"),
        ("a", "--meta"),
        ("a", "b", "--variant", "tiny"),
        ("a", "b", "--to", "elsewhere"),
    ],
)
def test_arguments_that_do_not_go_together_are_refused(arguments):
    assert run("convert", "checkpoint", *arguments).exit_code == 2
