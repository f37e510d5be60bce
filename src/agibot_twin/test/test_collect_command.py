"""`dreamzero collect` from the command line: the twin's expert, into a data set that continues where it ended."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from typer.testing import CliRunner

from agibot_twin.collect import episode_name
from agibot_twin.episodes import sample_episode
from agibot_twin.objects import TRAY
from agibot_twin.phrasing import SHAPE_WORDS
from agibot_twin.tasks import TOUCH
from dreamzero_policy.cli.main import app
from dreamzero_policy.data.dataset import open_dataset
from dreamzero_policy.data.episodes import Episode
from dreamzero_policy.data.pictures import load_pictures
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
    assert "--form is zip; expected lerobot, views or grounding" in " ".join(result.output.replace("│", " ").split())
    assert list(tmp_path.iterdir()) == []


def test_a_policy_that_is_not_there_is_named_before_anything_is_made(tmp_path: Path) -> None:
    result = collect(tmp_path / "out", "--after-policy", tmp_path / "nowhere")
    assert result.exit_code == 2
    said = "".join(result.output.replace("│", " ").split())
    assert f"--after-policyis{tmp_path}/nowhere,whichisnofolder" in said
    (tmp_path / "empty").mkdir()
    result = collect(tmp_path / "out", "--after-policy", tmp_path / "empty")
    assert result.exit_code == 1
    assert f"{tmp_path}/empty is not a checkpoint: it has no config.json" in " ".join(result.output.split())
    assert not (tmp_path / "out").exists()


def test_denoising_steps_without_a_policy_are_refused(tmp_path: Path) -> None:
    result = collect(tmp_path, "--denoise-steps", 2)
    assert result.exit_code == 2
    assert "--after-policy" in result.output


def write_demonstration(folder: Path) -> None:
    """Arms that have all joints at a tenth of a radian, grippers half closed."""
    folder.mkdir()
    model = CONTRACT.model
    state = np.tile([0.5 if "gripper" in joint else 0.1 for joint in model.state_joints], (3, 1))
    action, canvas = np.zeros((3, model.action_width)), np.zeros((1, *model.canvas_size_px, 3), np.uint8)
    Episode("touch it", state, action, canvas, np.array([0])).save(folder / "one.npz", CONTRACT)


@pytest.mark.parametrize("posed", [False, True])
def test_pictures_are_collected_once_and_told_of(tmp_path: Path, posed: bool) -> None:
    more: list[object] = ["--form", "grounding"]
    if posed:
        write_demonstration(tmp_path / "demos")
        more += ["--poses", tmp_path / "demos"]
    out = tmp_path / "pictures"
    first = collect(out, *more, "--episodes", 4)
    assert first.exit_code == 0, first.output
    assert "4 pictures made, with" in first.output
    pictures = load_pictures(out, CONTRACT)
    assert len(pictures) == 4
    named = {word for words in SHAPE_WORDS.values() for word in words} | {"one", "object", TRAY}
    for phrasing in (text for picture in pictures for question in picture.questions for text in question.phrasings):
        assert named & set(phrasing.replace(",", "").replace("?", "").replace(":", "").split()), phrasing
    again = collect(out, *more, "--episodes", 3, "--json")
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout) | {"seconds": 0} == {"pictures": 0, "there": 3, "questions": 0, "seconds": 0}
    longer = collect(out, *more, "--episodes", 5, "--json")  # the file ended inside
    assert json.loads(longer.stdout)["pictures"] == 5
    if posed:  # without, more pictures have more poses to draw from
        for before, after in zip(pictures, load_pictures(out, CONTRACT)[:4], strict=True):
            assert np.array_equal(before.canvas, after.canvas)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--poses", "demos"], "--poses is about --form grounding, but --form is lerobot"),
        (
            ["--form", "grounding", "--after-policy", "x"],
            "--after-policy is about demonstrations, but --form is grounding",
        ),
        (
            ["--after-mistakes", "--form", "grounding"],
            "--after-mistakes goes neither with --after-policy nor with --form",
        ),
    ],
)
def test_options_of_the_other_form_are_refused(tmp_path: Path, given: list[str], expected: str) -> None:
    result = collect(tmp_path / "out", *given)
    assert result.exit_code == 2
    assert expected in " ".join(result.output.replace("│", " ").split())
