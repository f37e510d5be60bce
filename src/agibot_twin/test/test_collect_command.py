"""`dreamzero collect` from the command line: the twin's expert, into a data set that continues where it ended."""

import json
from pathlib import Path

from click.testing import Result
from typer.testing import CliRunner

from agibot_twin.collect import episode_name
from agibot_twin.episodes import sample_episode
from agibot_twin.tasks import TOUCH
from dreamzero_policy.cli.main import app
from dreamzero_policy.data.dataset import open_dataset
from dreamzero_policy.runtime.contract import load_contract

CONTRACT = load_contract(Path(__file__).resolve().parents[3] / "config" / "agibot_g1.yaml")
FAMILIES = [sample_episode("training", seed).task.family for seed in range(200)]
SEED = next(seed for seed in range(199) if FAMILIES[seed : seed + 2] == [TOUCH, TOUCH])  # two of the shortest in a row


def collect(out: Path, *more: object) -> Result:
    asked = ["--out", out, "--first-seed", SEED, "--episodes", 2, "--processes", 1, *more]
    return CliRunner().invoke(app, ["collect", *map(str, asked)])


def test_demonstrations_are_collected_once_and_told_of(tmp_path: Path) -> None:
    first = collect(tmp_path, "--form", "views")
    assert first.exit_code == 0, first.output
    assert "2/2  {'kept': 2}" in first.output
    assert "touch: 2 of 2 demonstrations kept" in first.output
    episodes = open_dataset(tmp_path, CONTRACT)
    assert episodes.names == (episode_name(SEED), episode_name(SEED + 1))
    for number, episode in enumerate(episodes.episodes()):
        assert episode.instruction == sample_episode("training", SEED + number).instruction
        assert episode.steps > 60
    written = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again = collect(tmp_path, "--form", "views", "--json")
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout)["outcomes"] == {"there": 2}
    assert "2/2  {'there': 2}" in again.stderr
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == written


def test_an_unknown_form_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    result = collect(tmp_path, "--form", "zip")
    assert result.exit_code == 2
    assert "--form is zip; expected lerobot or views" in " ".join(result.output.replace("│", " ").split())
    assert list(tmp_path.iterdir()) == []


def test_a_policy_that_is_not_there_is_named_before_anything_is_made(tmp_path: Path) -> None:
    result = collect(tmp_path / "out", "--after-policy", tmp_path / "nowhere")
    assert result.exit_code == 2
    said = "".join(result.output.replace("│", " ").split())
    assert f"--after-policyis{tmp_path}/nowhere,whichisnofolder" in said
    (tmp_path / "empty").mkdir()
    result = collect(tmp_path / "out", "--after-policy", tmp_path / "empty")
    assert result.exit_code == 1
    assert f"{tmp_path}/empty has neither contract.yaml nor" in " ".join(result.output.split())
    assert not (tmp_path / "out").exists()


def test_denoising_steps_without_a_policy_are_refused(tmp_path: Path) -> None:
    result = collect(tmp_path, "--denoise-steps", 2)
    assert result.exit_code == 2
    assert "--after-policy" in result.output
