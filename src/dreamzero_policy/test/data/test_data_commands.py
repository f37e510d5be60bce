"""`dreamzero data inspect` and `dreamzero data convert`, from the command line."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from dreamzero_policy.cli.main import app
from dreamzero_policy.data.dataset import open_dataset
from dreamzero_policy.data.episodes import load_episode
from dreamzero_policy.data.lerobot.reader import LeRobotSource
from dreamzero_policy.data.lerobot.writer import LeRobotWriter
from dreamzero_policy.runtime.contract import save_contract

from .conftest import BagMaker
from .test_bags import write_sensors


@pytest.fixture
def small(tmp_path, contract) -> Path:
    save_contract(contract, tmp_path / "contract.yaml")
    return tmp_path / "contract.yaml"


@pytest.fixture
def lerobot(tmp_path, contract, recorded) -> Path:
    with LeRobotWriter(tmp_path / "lerobot", contract) as writer:
        for name in ("a", "b"):
            writer.add(recorded(name, 30, ("touch the cube", "reach for the cube")))
    return tmp_path / "lerobot"


@pytest.fixture
def bag(tmp_path, contract) -> Path:
    (tmp_path / "bags").mkdir()
    with BagMaker(tmp_path / "bags" / "run", contract) as made:
        write_sensors(made, contract, seconds=1.5)
    return tmp_path / "bags"


def run(*arguments: object):
    return CliRunner().invoke(app, ["data", *map(str, arguments)])


def test_a_data_set_is_described(lerobot, small):
    result = run("inspect", lerobot, "--contract", small, "--check", "--json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert (document["format"], document["episodes"], document["steps"]) == ("LeRobot v3.0", 2, 60)
    assert document["hours"] == pytest.approx(2 / 3600)
    assert document["cameras"] == {name: [48, 64] for name in ("head", "hand_left", "hand_right")}
    assert document["instructions"] == {"touch the cube": 2, "reach for the cube": 2}
    assert document["contract"]["fits"] and document["problems"] == []
    assert "fits" in run("inspect", lerobot, "--contract", small).stdout


def test_check_names_every_bad_episode_and_ends_with_1(lerobot, small):
    video = next(lerobot.rglob("observation.images.head/chunk-000/*.mp4"))
    video.write_bytes(video.read_bytes()[:100])
    assert run("inspect", lerobot, "--contract", small).exit_code == 0  # metadata alone
    result = run("inspect", lerobot, "--contract", small, "--check", "--json")
    assert result.exit_code == 1
    problems = json.loads(result.stdout)["problems"]
    assert [problem["episode"] for problem in problems] == ["a", "b"]
    assert "observation.images.head" in problems[0]["problem"]


def test_a_contract_that_does_not_fit_is_told_with_the_difference(lerobot, contract, tmp_path):
    other = contract.model_copy(update={"model": contract.model.model_copy(update={"embodiment": "other"})})
    save_contract(other, tmp_path / "other.yaml")
    document = json.loads(run("inspect", lerobot, "--contract", tmp_path / "other.yaml", "--json").stdout)
    assert not document["contract"]["fits"]
    assert document["contract"]["differences"] == ["model.embodiment: 'other' | 'agibot_g1'"]


def test_bags_become_a_lerobot_data_set_and_that_becomes_views(bag, small, tmp_path, contract):
    options = ("--contract", small, "--actions", "next_state", "--instruction", "touch the cube")
    result = run("convert", bag, tmp_path / "set", "--to", "lerobot", *options)
    assert result.exit_code == 0, result.output
    again = run("convert", bag, tmp_path / "set", "--to", "lerobot", *options)
    assert "wrote 0 episodes" in again.stdout and again.exit_code == 0
    assert run("convert", tmp_path / "set", tmp_path / "views", "--to", "views", "--contract", small).exit_code == 0
    through = load_episode(tmp_path / "views" / "run.npz", contract)
    source = LeRobotSource(tmp_path / "set", contract)
    np.testing.assert_array_equal(through.state, source.recording("run").state)
    assert through.instruction == "touch the cube"
    assert len(open_dataset(tmp_path / "views", contract).names) == 1


def test_views_are_not_blown_up_into_images(lerobot, small, tmp_path):
    assert run("convert", lerobot, tmp_path / "views", "--to", "views", "--contract", small).exit_code == 0
    result = run("convert", tmp_path / "views", tmp_path / "back", "--to", "lerobot", "--contract", small)
    assert result.exit_code == 1
    assert "episode a" in result.stdout and "not the images they were made of" in result.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("--to", "hdf5"),
        ("--to", "lerobot", "--trim"),
        ("--to", "views", "--actions", "guess"),
        ("--to", "views", "--rename", "head"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused(lerobot, tmp_path, arguments, small):
    assert run("convert", lerobot, tmp_path / "out", *arguments, "--contract", small).exit_code == 2
