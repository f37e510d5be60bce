"""Episodes in, checkpoints out: every stage through the command line, and what is there already is not done again."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from typer.testing import CliRunner

from dreamzero_policy.cli.main import app
from dreamzero_policy.data.episodes import Episode
from dreamzero_policy.data.pictures import save_pictures
from dreamzero_policy.model import checkpoint as checkpoints
from dreamzero_policy.runtime.contract import Contract
from dreamzero_policy.training.latents import load_side
from dreamzero_policy.training.settings import Recipe, RecipeError

SMALL = {
    "variant": "test",
    "transformer": {"num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 12, "ffn_dim": 32, "freq_dim": 16}
    | {"control_hidden_dim": 16},
    "autoencoder": {"base_dim": 4, "dim_mult": [1, 1, 1]},
    "text_encoder": {"dim": 16, "num_layers": 1, "num_heads": 2, "head_dim": 8, "ffn_dim": 16},
    "image_encoder": {"dim": 16, "num_layers": 2, "num_heads": 2, "ffn_dim": 16},
}


def write_episodes(folder: Path, contract: Contract, count: int, steps: int = 80) -> None:
    """Arms that move, cameras that see noise, two phrasings each."""
    folder.mkdir(parents=True)
    model, rng = contract.model, np.random.default_rng(0)
    for number in range(count):
        state = np.cumsum(rng.normal(0, 0.01, (steps, len(model.state_joints))), axis=0)
        action = np.zeros((steps, model.action_width))
        action[:, : state.shape[1]] = state + 0.01
        view_steps = np.arange(0, steps, 3)
        canvas = rng.integers(0, 255, (len(view_steps), *model.canvas_size_px, 3), dtype=np.uint8)
        told = (f"touch thing {number}", f"reach for thing {number}")
        Episode(told[0], state, action, canvas, view_steps, told).save(folder / f"{number:03d}.npz", contract)


@pytest.fixture
def place(tmp_path, contract) -> Path:
    """A folder with a recipe for a model that trains in seconds, and six episodes for it."""
    config = Path(__file__).parents[4] / "config"
    model = yaml.safe_load((config / "models" / "tiny.yaml").read_text())
    for section, sizes in SMALL.items():
        model[section] = sizes if isinstance(sizes, str) else model[section] | sizes
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(model))
    recipe = {
        "model": "model.yaml",
        "contract": str(config / "agibot_g1.yaml"),
        "autoencoder": {"steps": 2, "images": 2, "clips": 1, "clip_frames": 5},
        "latents": {"windows_per_episode": 2, "validation": 0.3},
        "joint": {"steps": 3, "batch": 1, "save_every": 2, "validate_every": 2, "dream_every": 3},
        "flash": {"steps": 2, "dream_every": 0},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    write_episodes(tmp_path / "demos", contract, 6)
    return tmp_path


def train(place: Path, *more: str) -> str:
    """The output of `dreamzero train`."""
    arguments = ["--config", place / "recipe.yaml", "--data", place / "demos", "--out", place / "policy"]
    done = CliRunner().invoke(app, ["train", *map(str, arguments), "--threads", "1", *more])
    return f"exit {done.exit_code}\n{done.output}"


def test_episodes_become_checkpoints_and_a_second_run_does_nothing_again(place, contract):
    said = train(place)
    assert said.startswith("exit 0"), said
    run = place / "policy.run"
    training, validation = (load_side(run / side, contract) for side in ("latents", "validation"))
    assert {window.prompts for window in training}.isdisjoint({window.prompts for window in validation})
    assert len({prompt for window in training + validation for prompt in window.prompts}) == 12
    for name, stage in (("policy", "joint"), ("policy_flash", "flash")):
        _, config = checkpoints.load(place / name, None)
        assert config.autoencoder.latents_std != (1.0,) * config.autoencoder.latent_channels
        assert stage in (place / name / "training.json").read_text()
        for file in ("contract.yaml", "statistics.json", "training.yaml"):
            assert (place / name / file).is_file()
    assert list((run / "dreams").glob("joint_*.mp4")) and list((run / "tensorboard").iterdir())
    assert all(word in said for word in ("validation  video", "  action ", "  video_first ", "  action_first "))

    before = {path: path.stat().st_mtime_ns for path in run.glob("*/*.npz")}
    again = train(place)
    assert again.startswith("exit 0") and "joint goes on at step 3" in again and "flash goes on at step 2" in again
    assert before == {path: path.stat().st_mtime_ns for path in run.glob("*/*.npz")}


def test_episodes_that_come_later_are_encoded_beside_those_that_are_there(place, contract):
    assert train(place, "--stage", "prepare").startswith("exit 0")
    run = place / "policy.run"
    before = load_side(run / "latents", contract)
    write_episodes(place / "more", contract, 9)
    for path in sorted((place / "more").iterdir())[6:]:
        path.rename(place / "demos" / path.name)
    assert train(place, "--stage", "prepare").startswith("exit 0")
    after = load_side(run / "latents", contract)
    held_out = load_side(run / "validation", contract)
    assert {window.episode for window in after + held_out} == {f"{number:03d}" for number in range(9)}
    kept = [window for window in after if window.episode in {window.episode for window in before}]
    assert len(kept) == len(before) < len(after)
    for ours, theirs in zip(before, kept, strict=True):
        assert torch.equal(ours.latents, theirs.latents)


def test_a_run_may_keep_the_statistics_of_the_checkpoint_that_it_goes_on_from(place, contract):
    statistics = Path(__file__).parents[4] / "checkpoints" / "agibot_g1_tiny" / "statistics.json"
    path = place / "recipe.yaml"
    document = yaml.safe_load(path.read_text())
    document["latents"]["statistics"] = str(statistics)
    path.write_text(yaml.safe_dump(document))
    assert train(place, "--stage", "prepare").startswith("exit 0")
    assert (place / "policy.run" / "statistics.json").read_text() == statistics.read_text()


def test_a_recipe_with_grounding_needs_pictures_once_and_the_checkpoint_is_as_any_other(place, contract, make_pictures):
    path = place / "recipe.yaml"
    document = yaml.safe_load(path.read_text())
    del document["flash"]
    document["grounding"] = {"steps": 2, "batch": 2, "warm_up": 1, "validation": 0.5, "validate_every": 1}
    path.write_text(yaml.safe_dump(document))
    said = train(place).replace("│", " ")
    assert said.startswith("exit 2") and "--pictures is missing" in said and not (place / "policy.run").exists()
    (place / "pictures").mkdir()
    save_pictures(place / "pictures" / "pictures_0.npz", contract, make_pictures(4, 128))
    said = train(place, "--pictures", str(place / "pictures"))
    assert said.startswith("exit 0") and "grounding: 2 pictures to train on, 2 held out" in said, said
    assert "grounding 2  validation  total" in said and "hits" in said and "looks" in said
    checkpoints.load(place / "policy", None)
    assert (place / "policy.run" / "grounded" / "image_encoder" / "model.safetensors").is_file()
    assert train(place).startswith("exit 0")  # grounded: no pictures needed any more
    assert train(place, "--stage", "flash").startswith("exit 1")
    document["joint"]["looks_every"] = 1
    path.write_text(yaml.safe_dump(document))
    said = " ".join(train(place).replace("│", " ").split())
    assert said.startswith("exit 2") and "--pictures is missing; the stage joint needs" in said


def test_an_episode_that_cannot_be_used_is_named_in_one_line(place, contract):
    (place / "demos" / "002.npz").write_bytes(b"not an episode")
    said = train(place, "--stage", "prepare")
    assert said.startswith("exit 1") and "002.npz cannot be read" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"action_loss": "both"}, "joint.action_loss is 'both', expected valid or release"),
        ({"steps": "many"}, "joint.steps is 'many', expected a value of type int"),
        ({"stepps": 3}, "joint.stepps is unknown"),
        ({"noisy_history": 2}, "joint.noisy_history is 2.0, expected a probability"),
    ],
)
def test_a_recipe_that_cannot_be_followed_is_refused_by_file_and_field(place, change, expected):
    path = place / "recipe.yaml"
    document = yaml.safe_load(path.read_text())
    document["joint"] |= change
    path.write_text(yaml.safe_dump(document))
    said = train(place).replace("\n", " ")
    assert said.startswith("exit 1") and expected in said and "recipe.yaml" in said


@pytest.mark.parametrize(
    ("joint", "flash", "expected"),
    [
        ({}, {"from_noise": 0.5}, "flash.from_noise is 0.5, but the noise of that stage is its own"),
        ({"tuning": "lora"}, {}, "flash.start is missing; joint.tuning is lora, whose state holds adapters alone"),
    ],
)
def test_what_flash_could_not_do_is_refused(place, joint, flash, expected):
    path = place / "recipe.yaml"
    document = yaml.safe_load(path.read_text())
    document["joint"] |= joint
    document["flash"] = flash
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(RecipeError, match=expected):
        Recipe.load(path)


def test_flash_keeps_its_own_noise_whatever_joint_has(place):
    path = place / "recipe.yaml"
    document = yaml.safe_load(path.read_text())
    document["joint"]["from_noise"] = 0.6
    document["flash"] = {}
    path.write_text(yaml.safe_dump(document))
    recipe = Recipe.load(path)
    assert (recipe.joint.from_noise, recipe.flash.from_noise, recipe.flash.noise) == (0.6, 0.0, "flash")
