"""Grounding: encoders learn to point, resume exactly, and the joint stage begins with them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from dreamzero_policy.data.pictures import PictureError, save_pictures
from dreamzero_policy.model import checkpoint as checkpoints
from dreamzero_policy.model.config import ModelConfig
from dreamzero_policy.model.weights import CheckpointError
from dreamzero_policy.training.grounding import Grounding, ground, is_grounded, split
from dreamzero_policy.training.pointing import Targets, looked, middles, pointed, spread_of
from dreamzero_policy.training.progress import Reporter
from dreamzero_policy.training.settings import GroundingSettings, Recipe, RecipeError
from dreamzero_policy.training.starting import TRAINED
from dreamzero_policy.training.state_file import StateError
from dreamzero_policy.training.train import train
from dreamzero_policy.training.trainer import OUTPUT_HEADS

STEPS = {"steps": 6, "batch": 4, "save_every": 2, "validate_every": 3, "validation": 0.2, "warm_up": 2}


@pytest.fixture
def place(tmp_path, fill_run, contract, make_pictures):
    """A prepared run with a recipe that asks for grounding, and pictures for it."""
    recipe = fill_run(tmp_path / "run", {"steps": 0}, grounding=STEPS)
    (tmp_path / "pictures").mkdir()
    save_pictures(tmp_path / "pictures" / "pictures_0.npz", contract, make_pictures(10, 128))
    return recipe


def grounded_in(run) -> dict[str, torch.Tensor]:
    config = ModelConfig.from_file(run / "config.json")
    made = checkpoints.builders(config)
    networks = {name: checkpoints.load_network(run / "grounded" / name, made[name]) for name in TRAINED}
    return {f"{name}.{key}": value for name, net in networks.items() for key, value in net.named_parameters()}


def test_targets_are_the_patches_of_the_points_and_the_places_in_them():
    points = [np.array([[1.0, 1.0], [31.9, 15.9], [31.0, 15.0]]), np.array([[20.0, 4.0]])]
    targets = Targets.of(points, (16, 32), 2)  # patches of 16 px width and 8 px height
    assert targets.share.tolist() == [[0.5, 0, 0, 0.5], [0, 1, 0, 0]]
    torch.testing.assert_close(targets.offset[1, 1], torch.tensor([-0.25, 0.0]))
    assert targets.offset.isnan().all(-1).tolist() == [[False, True, True, False], [True, False, True, True]]
    assert targets.nearest.all()


def test_a_look_counts_for_the_thing_that_it_is_nearest_to():
    cube, ball = np.array([[3.0, 5.0]]), np.array([[12.0, 12.0], [12.0, 3.0]])  # patches of 8 px; the ball in two views
    both = np.concatenate([cube, ball])
    targets = Targets.of([cube, ball], (16, 16), 2, [both, both])
    assert targets.nearest.tolist() == [[True, False, True, False], [False, True, False, True]]
    for patch, share in ((0, 0.5), (1, 0.5), (3, 0.5)):  # of both questions
        scores = torch.nn.functional.one_hot(torch.tensor([1 + patch]), 5).float().expand(1, 2, 1, 5)
        found = looked(scores, targets.place[None, :, None], targets, torch.ones(2))
        assert found.things == share
    nowhere = torch.nn.functional.one_hot(torch.tensor([0]), 5).float().expand(1, 2, 1, 5)  # the class token
    assert looked(nowhere, targets.place[None, :, None], targets, torch.ones(2)).things == 0


def test_losses_are_smallest_for_the_right_answer_in_any_of_its_views():
    targets = Targets.of([np.array([[1.0, 1.0], [9.0, 9.0]])], (16, 16), 2)
    offset, place = targets.offset.nan_to_num(), targets.place[None, :, None]  # one layer, one token
    right = torch.tensor([[50.0, 0, 0, 50.0]])
    looks = torch.tensor([0.0, 50.0, 0, 0, 0]).expand(2, 1, 1, 5)  # of two layers; the class token first
    found, seen = pointed(right, offset, middles(2)[None], targets), looked(looks, place, targets, torch.ones(2))
    assert found.patch.item() == pytest.approx(np.log(2)) and seen.look.item() == pytest.approx(0, abs=1e-6)
    assert (found.offset, seen.place, found.where, found.hits, seen.looks) == (0, 0, 0, 1, 1)
    assert middles(2).tolist() == [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]
    for elsewhere in ([0.0, 0, 50.0, 0, 0], [50.0, 0, 0, 0, 0], [0.0, 0, 0, 0, 50.0]):  # the last: another view
        looks = torch.tensor(elsewhere).expand(2, 1, 1, 5)
        wrong = pointed(torch.tensor([[0.0, 50.0, 0, 0]]), offset + 0.1, middles(2)[None] + 0.2, targets)
        astray = looked(looks, place + 0.1, targets, torch.tensor([1.0, 0.5]))
        assert wrong.where.item() == pytest.approx(0.2)
        assert wrong.patch > 40 and astray.look > 40 and (wrong.hits, astray.looks) == (0, 0)
        assert wrong.offset.item() == pytest.approx(0.1) and astray.place.item() == pytest.approx(0.15)


def test_spreads_are_those_of_most_places_along_each_axis():
    places = np.array([[0.1 * i, 0.3 + 0.01 * i] for i in range(9)] + [[0.5, 0.9]])  # the last in another view
    across, deep = spread_of(places).tolist()
    assert across == pytest.approx(0.2, abs=0.03) and deep == pytest.approx(0.0225, abs=0.003)


def test_encoders_and_transformer_learn_to_find_what_the_words_name(make_config, make_pictures, make_grounding):
    settings = GroundingSettings(steps=250, batch=16, warm_up=10, learning_rate=5e-3)
    pictures = make_pictures(48, 16)
    grounding = make_grounding(make_config(layers=2, state_dim=20), settings, pictures[:40])
    before = grounding.test(pictures[40:])
    for _ in range(settings.steps):
        grounding.advance()
    after = grounding.test(pictures[40:])
    assert after["total"] < 0.5 * before["total"] and after["hits"] > 0.9 and after["looks"] > 0.9


def test_every_wording_is_drawn_and_padding_of_prompts_does_not_count(make_config, make_pictures, make_grounding):
    grounding = make_grounding(make_config(state_dim=20), GroundingSettings(batch=4), make_pictures(4, 16))
    heard, tokenizer = [], grounding.exercise.tokenizer
    grounding.exercise.tokenizer = lambda prompts: heard.extend(prompts) or tokenizer(prompts)
    for step in range(8):
        grounding.answers(grounding.pictures, np.random.default_rng(step))
    assert set(heard) == {f"{verb} the {name} one" for verb in ("touch", "push") for name in ("red", "green")}
    text, image = torch.randn(1, 6, 16), torch.randn(1, 5, 16)
    mask, rows = torch.tensor([[1, 1, 1, 0, 0, 0]]), torch.tensor([0])
    head = grounding.exercise.heads["pointer"]
    whole, cut = head(text, mask, image, rows)[0], head(text[:, :3], mask[:, :3], image, rows)[0]
    torch.testing.assert_close(whole, cut)


@pytest.mark.parametrize("bfloat16", [False, True])
def test_encoders_that_keep_still_are_not_asked_and_see_each_picture_once(
    make_config, make_pictures, make_grounding, bfloat16
):
    grounding = make_grounding(make_config(state_dim=20), GroundingSettings(batch=4), make_pictures(4, 16))
    pictures = [replace(picture, questions=picture.questions[:1]) for picture in grounding.pictures]
    seen = []
    grounding.networks["image_encoder"].register_forward_hook(lambda *_: seen.append(1))

    def ask(train_encoders: bool):
        return grounding.exercise.answers(
            grounding.networks, pictures, np.random.default_rng(0), bfloat16=bfloat16, train_encoders=train_encoders
        )

    trained, kept, again = ask(True), ask(False), ask(False)
    assert len(seen) == 1 + 4
    assert kept.encoders is None and "hits" in trained.numbers and "hits" not in kept.numbers
    for name in ("look", "place", "looks"):  # of one question each, so both ways ask the same
        found, wanted = getattr(kept.transformer, name), getattr(trained.transformer, name)
        torch.testing.assert_close(found, wanted, rtol=0.02 if bfloat16 else 2e-3, atol=1e-3)
    assert kept.total == again.total == kept.transformer.total
    kept.total.backward()
    moved = {key.split(".")[0] for key, each in grounding.networks.named_parameters() if each.grad is not None}
    assert moved == {"transformer", "exercise"}


@pytest.mark.parametrize("bfloat16", [False, True])
def test_an_interrupted_run_ends_with_the_weights_of_one_that_was_not(place, tmp_path, fill_run, monkeypatch, bfloat16):
    once, twice = (
        fill_run(tmp_path / name, {"steps": 0}, grounding=STEPS | {"bfloat16": bfloat16}) for name in ("once", "twice")
    )
    ground(Recipe.load(once), tmp_path / "pictures", once.parent, Reporter())
    advance = Grounding.advance

    def interrupted(self):
        if self.step == 5:
            raise KeyboardInterrupt
        return advance(self)

    monkeypatch.setattr(Grounding, "advance", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ground(Recipe.load(twice), tmp_path / "pictures", twice.parent, Reporter())
    assert (twice.parent / "grounding.pt").exists() and not is_grounded(twice.parent)
    monkeypatch.setattr(Grounding, "advance", advance)
    ground(Recipe.load(twice), tmp_path / "pictures", twice.parent, Reporter())
    assert not (twice.parent / "grounding.pt").exists()
    expected = grounded_in(once.parent)
    for key, tensor in grounded_in(twice.parent).items():
        assert torch.equal(tensor, expected[key]), key


def test_the_joint_stage_begins_with_the_grounded_networks(place, tmp_path):
    recipe, run = Recipe.load(place), place.parent
    with pytest.raises(StateError, match=r"has no grounded; the stage grounding was not finished there"):
        train(recipe, "joint", run, tmp_path / "out", Reporter())
    ground(recipe, tmp_path / "pictures", run, Reporter())
    trained = train(recipe, "joint", run, tmp_path / "out", Reporter())
    expected = grounded_in(run)
    silent = ("transformer.action_decoder.layer2.W", "transformer.action_decoder.layer2.b")  # of unused columns
    for key, tensor in expected.items():
        used = slice(None, -1) if key in silent else slice(None)
        assert torch.equal(trained.masters[key][..., used], tensor[..., used]), key
    again = train(recipe, "joint", run, tmp_path / "out", Reporter())  # from its state, whatever lies in encoders
    assert torch.equal(again.masters["text_encoder.shared.weight"], expected["text_encoder.shared.weight"])
    files = sorted(path.relative_to(run / "grounded").as_posix() for path in (run / "grounded").rglob("*.safetensors"))
    assert files == [
        "heads.safetensors",
        "image_encoder/model.safetensors",
        "text_encoder/model.safetensors",
        "transformer/diffusion_pytorch_model.safetensors",
    ]


def test_what_was_grounded_is_not_forgotten_while_joint_looks_on(tmp_path, fill_run, contract, make_pictures):
    joint = {"steps": 4, "looks_every": 2, "looks_batch": 2, "heads_first": 2, "train_encoders": False}
    recipe = Recipe.load(fill_run(tmp_path / "run", joint, grounding=STEPS))
    run, pictures = tmp_path / "run", tmp_path / "pictures"
    pictures.mkdir()
    save_pictures(pictures / "pictures_0.npz", contract, make_pictures(10, 128))
    ground(recipe, pictures, run, Reporter())
    before = grounded_in(run)
    with pytest.raises(StateError, match=r"joint\.looks_every is 2; give the pictures"):
        train(recipe, "joint", run, tmp_path / "out", Reporter())
    trained = train(recipe, "joint", run, tmp_path / "out", Reporter(), pictures=pictures)
    assert trained.step == 4
    moved = {key for key, tensor in before.items() if not torch.equal(trained.masters[key], tensor)}
    assert "transformer.blocks.0.attn2.add_k_proj.weight" in moved  # by looks and, from the third step on, by all
    assert not any(key.startswith(("text_encoder", "image_encoder")) for key in moved)
    assert not (tmp_path / "out" / "heads.safetensors").exists()


def test_heads_of_the_exercise_are_kept_where_joint_goes_on_from_a_checkpoint(
    tmp_path, fill_run, contract, make_pictures
):
    joint = {"steps": 0, "looks_every": 2, "looks_batch": 2}
    recipe = Recipe.load(fill_run(tmp_path / "run", joint, grounding=STEPS))
    run, pictures, out = tmp_path / "run", tmp_path / "pictures", tmp_path / "out"
    pictures.mkdir()
    save_pictures(pictures / "pictures_0.npz", contract, make_pictures(10, 128))
    ground(recipe, pictures, run, Reporter())
    train(recipe, "joint", run, out, Reporter(), pictures=pictures)
    (run / "state.pt").unlink()
    going_on = replace(recipe, grounding=None, joint=replace(recipe.joint, start=out))
    trained = train(going_on, "joint", run, tmp_path / "on", Reporter(), pictures=pictures)
    kept = load_file(run / "grounded" / "heads.safetensors")
    assert kept and all(torch.equal(trained.masters[f"exercise.{key}"], tensor) for key, tensor in kept.items())


def test_the_trunk_keeps_still_while_only_output_heads_learn(make_trainer):
    train = make_trainer(heads_first=1)
    before = {key: tensor.clone() for key, tensor in train.masters.items()}
    train.advance()
    moved = {key for key, tensor in train.masters.items() if not torch.equal(tensor, before[key])}
    assert moved and all(key.startswith(tuple(f"transformer.{name}" for name in OUTPUT_HEADS)) for key in moved)
    train.advance()
    assert any(not torch.equal(train.masters[key], before[key]) for key in before if ".blocks." in key)


def test_what_is_there_is_not_made_again(place, tmp_path):
    ground(Recipe.load(place), tmp_path / "pictures", place.parent, Reporter())
    file = place.parent / "grounded" / "text_encoder" / "model.safetensors"
    before = file.stat().st_mtime_ns
    ground(Recipe.load(place), None, place.parent, Reporter())
    assert file.stat().st_mtime_ns == before


def test_encoders_of_another_size_are_refused_by_name_and_both_shapes(place, tmp_path):
    ground(Recipe.load(place), tmp_path / "pictures", place.parent, Reporter())
    model = yaml.safe_load((place.parent / "model.yaml").read_text())
    model["image_encoder"]["patch_size"] = 4
    (place.parent / "model.yaml").write_text(yaml.safe_dump(model))
    with pytest.raises(CheckpointError, match=r"image_encoder"):
        train(Recipe.load(place), "joint", place.parent, tmp_path / "out", Reporter())


def test_what_the_stage_lacks_is_named(place, tmp_path, fill_run, make_config):
    run, pictures = place.parent, tmp_path / "pictures"
    without = Recipe.load(fill_run(tmp_path / "without", {}))
    with pytest.raises(RecipeError, match=r"recipe\.yaml has no section grounding"):
        ground(without, pictures, run, Reporter())
    with pytest.raises(StateError, match="give the pictures"):
        ground(Recipe.load(place), None, run, Reporter())
    with pytest.raises(PictureError, match="holds no pictures"):
        ground(Recipe.load(place), tmp_path, run, Reporter())
    torch.save({"step": 1}, run / "state.pt")
    with pytest.raises(StateError, match=r"joint began without grounding; remove state\.pt"):
        ground(Recipe.load(place), pictures, run, Reporter())
    (run / "state.pt").unlink()
    (run / "config.json").unlink()
    with pytest.raises(StateError, match=r"has no config\.json"):
        ground(Recipe.load(place), pictures, run, Reporter())


def test_a_state_of_another_model_is_refused(make_config, make_pictures, make_grounding, tmp_path):
    first, second = (
        make_grounding(make_config(state_dim=20), GroundingSettings(batch=2), make_pictures(2, 16)) for _ in range(2)
    )
    first.exercise.heads["pointer"].answer = torch.nn.Linear(16, 5)
    first.save_state(tmp_path / "grounding.pt")
    with pytest.raises(StateError, match=r"grounding\.pt is of another model: .*pointer\.answer"):
        second.load_state(tmp_path / "grounding.pt")


def test_held_out_pictures_are_not_trained_on(make_pictures):
    pictures = make_pictures(10, 16)
    training, held_out = split(pictures, GroundingSettings(validation=0.3))
    assert len(held_out) == 3 and {id(p) for p in training} | {id(p) for p in held_out} == {id(p) for p in pictures}
    assert len(split(pictures, GroundingSettings(validation=0))[0]) == 10
