"""`dreamzero convert bag`, `convert lerobot` and `bench bags` from the command line: exit codes, and no traceback."""

import json

import pytest
from typer.testing import CliRunner

from dreamzero_policy.cli.main import app
from dreamzero_policy.runtime.contract import save_contract

from .test_convert_bags import write_bag


@pytest.fixture
def run(tmp_path, contract):
    save_contract(contract, tmp_path / "contract.yaml")

    def invoke(*arguments: object):
        words = [*map(str, arguments), "--contract", str(tmp_path / "contract.yaml")]
        return CliRunner().invoke(app, words)

    return invoke


def test_there_and_back_ends_with_0_and_damage_with_1_and_lines_that_name_it(tmp_path, contract, run):
    (tmp_path / "bags").mkdir()
    write_bag(tmp_path / "bags" / "run", contract)
    told = ("--instruction", "touch the cube", "--processes", 1)
    done = run("convert", "bag", tmp_path / "bags", tmp_path / "set", *told, "--json")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert (document["bags"], document["episodes"], document["damage"]) == (1, 1, 0)
    assert run("convert", "lerobot", tmp_path / "set", tmp_path / "back", "--processes", 1).exit_code == 0
    assert (tmp_path / "back" / "run" / "metadata.yaml").is_file()

    file = next((tmp_path / "bags" / "run").glob("*.mcap"))
    file.write_bytes(file.read_bytes()[:-40])
    (tmp_path / "bags" / "none.mcap").write_bytes(b"none")
    damaged = run("convert", "bag", tmp_path / "bags", tmp_path / "other", *told)
    assert damaged.exit_code == 1 and isinstance(damaged.exception, SystemExit)
    said = " ".join(damaged.output.split())  # lines are broken where the window ends
    assert "none.mcap was not converted" in said and "damage: " in said
    assert "1 episodes" in said and "Traceback" not in said
    assert run("convert", "bag", tmp_path / "bags", tmp_path / "set", *told).exit_code == 1  # the bag has changed


@pytest.mark.parametrize(
    "arguments",
    [
        ("bag", "--actions", "guess"),
        ("bag", "--processes", "0"),
        ("lerobot", "--images", "gif"),
        ("lerobot", "--unit", "x"),
    ],
)
def test_an_option_that_makes_no_sense_ends_with_2(tmp_path, run, arguments):
    kind, *options = arguments
    assert run("convert", kind, tmp_path, tmp_path / "out", *options).exit_code == 2


def test_bench_bags_measures_all_its_ways_in_one_run(run):
    done = run("bench", "bags", "--minutes", 0.2, "--rounds", 1, "--json")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["frames"]["all_frames"] == document["frames"]["plain"] == 3 * (3 * 30 + 1)
    assert document["frames"]["instants"] == document["frames"]["canvases"] == 3 * (3 * 10 + 1)
    assert document["peak_growth_mib"] < 64  # a frame is 0.9 MiB, the longer bag has 810 frames more
