"""A run of the optimiser: it learns, resumes exactly, starts from checkpoints, and what it leaves can be served."""

import dataclasses
import signal

import numpy as np
import pytest
import torch

from dreamzero_policy.model import checkpoint as checkpoints
from dreamzero_policy.training.settings import JointSettings
from dreamzero_policy.training.starting import StartError
from dreamzero_policy.training.trainer import Trainer


def total_of_some_batches(train: Trainer) -> float:
    return sum(train.losses_of(train.batch(1000 + i), torch.Generator().manual_seed(i)).total.item() for i in range(8))


@pytest.mark.parametrize(
    "changes", [{}, {"lengths": "mixed", "noise": "flash", "noisy_history": 0.5}, {"train_encoders": False}]
)
def test_an_interrupted_run_ends_with_the_weights_of_one_that_was_not(tmp_path, make_trainer, changes):
    whole, first, second = (make_trainer(bfloat16=True, **changes) for _ in range(3))
    for _ in range(4):
        whole.advance()
    for _ in range(2):
        first.advance()
    first.save_state(tmp_path / "state.pt")
    second.load_state(tmp_path / "state.pt")
    for _ in range(2):
        second.advance()
    for key, tensor in whole.masters.items():
        assert torch.equal(tensor, second.masters[key]), key
        assert torch.equal(whole.average[key], second.average[key]), key


@pytest.mark.parametrize("lengths", ["same", "mixed"])
def test_training_lowers_the_loss_and_never_moves_padding_columns(make_trainer, lengths):
    train = make_trainer(steps=150, learning_rate=5e-3, batch=2, lengths=lengths)
    before = total_of_some_batches(train)
    for _ in range(150):
        train.advance()
    assert total_of_some_batches(train) < 0.95 * before
    networks = train.averaged_networks()
    assert (networks.transformer.action_decoder.layer2.W[..., 5:] == 0).all()


def test_encoders_that_are_not_trained_keep_still_and_give_the_same_losses(make_trainer):
    still, moving = (make_trainer(train_encoders=train) for train in (False, True))
    before = {key: tensor.clone() for key, tensor in still.masters.items()}
    batch = still.batch(0)
    losses = [train.losses_of(train.batch(0), torch.Generator().manual_seed(0)).total for train in (still, moving)]
    assert batch.image is not None and moving.batch(0).image is None
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-3, atol=0)  # features are kept in half precision
    for _ in range(3):
        still.advance()
    moved = {key for key, tensor in still.masters.items() if not torch.equal(tensor, before[key])}
    assert moved and all(key.startswith("transformer.") for key in moved)


def test_mixed_batches_hold_windows_of_different_lengths_within_the_budget_of_chunks(make_trainer):
    train = make_trainer(batch=2, lengths="mixed")
    batches = [train.batch(step) for step in range(20)]
    assert any(not batch.chunk_valid.all() for batch in batches)
    assert all(1 <= batch.chunk_valid.sum() <= 8 for batch in batches)
    assert all(train_batch.chunk_valid.all() for train_batch in map(make_trainer(batch=2).batch, range(20)))


def test_beginnings_are_first_chunks_half_of_them_of_whole_episodes(make_trainer, make_window):
    opening = dataclasses.replace(make_window(2, 0), opening=True, prompts=("open",))
    windows = [opening, *(dataclasses.replace(make_window(2, i), prompts=("later",)) for i in range(1, 40))]
    always, never = (make_trainer(windows=windows, batch=8, beginnings=share) for share in (1.0, 0.0))
    batch = always.batch(0)
    assert batch.chunk_valid.shape == (16, 1) and batch.latents.shape[2] == 3 and batch.action.shape[1] == 4
    assert batch.prompts[8:] == ("open",) * 8 and batch.prompts[:8].count("later") > 4
    torch.testing.assert_close(batch.latents[-1], opening.latents[:, :3].float())
    assert never.batch(0).chunk_valid.shape[1] == 2
    kinds = [make_trainer(windows=windows, beginnings=0.5).batch(step).chunk_valid.shape[1] for step in range(40)]
    assert 10 < kinds.count(1) < 30


def test_every_window_of_an_attempt_with_advice_counts_as_one_that_begins_at_rest(make_trainer, make_window):
    passing = [dataclasses.replace(make_window(2, i), prompts=("in motion",)) for i in range(20)]
    attempt = make_window(2, 20)
    advised = dataclasses.replace(attempt, history=attempt.latents + 1, prompts=("advised",))
    batch = make_trainer(windows=[*passing, advised], batch=8, beginnings=1.0, openings=0.5).batch(0)
    assert batch.prompts[8:] == ("advised",) * 8 and batch.prompts[:8].count("in motion") > 4


def test_every_phrasing_is_drawn_and_the_draw_follows_from_seed_and_step(make_trainer, make_window):
    windows = [dataclasses.replace(make_window(1, i), prompts=("touch it", "reach for it", "tap it")) for i in range(3)]
    train, again = make_trainer(windows=windows), make_trainer(windows=windows)
    drawn = [train.batch(step).prompts for step in range(20)]
    assert {prompt for prompts in drawn for prompt in prompts} == {"touch it", "reach for it", "tap it"}
    assert drawn == [again.batch(step).prompts for step in range(20)]


def test_averaged_networks_can_be_saved_and_loaded(tmp_path, make_trainer):
    train = make_trainer()
    train.vae = checkpoints.builders(train.config)["vae"]()
    train.advance()
    checkpoints.save(train.averaged_networks(), train.config, tmp_path, torch.bfloat16)
    networks, config = checkpoints.load(tmp_path, torch.float32)
    assert config == train.config
    expected = train.average["transformer.patch_embedding.weight"]
    assert torch.allclose(networks.transformer.patch_embedding.weight, expected, atol=1e-2)


def test_a_run_that_starts_from_a_checkpoint_starts_with_its_weights(tmp_path, make_trainer):
    first = make_trainer()
    first.vae = checkpoints.builders(first.config)["vae"]()
    for _ in range(3):
        first.advance()
    checkpoints.save(first.averaged_networks(), first.config, tmp_path, torch.float32)
    second = make_trainer(start=tmp_path, noise="flash", seed=5)
    for key, tensor in first.average.items():
        assert torch.equal(second.masters[key], tensor), key
    assert second.step == 0


def test_a_checkpoint_of_another_size_is_refused_by_field_and_both_values(tmp_path, make_trainer, make_config):
    first = make_trainer()
    first.vae = checkpoints.builders(first.config)["vae"]()
    checkpoints.save(first.averaged_networks(), first.config, tmp_path, torch.float32)
    with pytest.raises(StartError, match=r"transformer\.num_layers = 1, this training has 2"):
        make_trainer(start=tmp_path, config=make_config(layers=2))


def test_a_layout_that_training_does_not_prepare_for_is_refused_by_name(make_config, make_window):
    config = make_config()
    config = dataclasses.replace(config, transformer=dataclasses.replace(config.transformer, image_condition=True))
    with pytest.raises(ValueError, match=r"transformer\.image_condition"):
        Trainer(config, JointSettings(steps=1), [make_window(1, 0)], None)


def test_a_model_without_video_loss_is_served_as_it_was_trained(tmp_path, make_trainer, make_window):
    """In a session the video stays the noise it was, at the trained time, and the actions are the training pass's."""
    from dreamzero_policy.inference.loading import load_policy
    from dreamzero_policy.inference.session import Session

    train = make_trainer(video_loss=False, steps=30)
    train.vae = checkpoints.builders(train.config)["vae"]()
    for _ in range(5):
        train.advance()
    checkpoints.save(train.averaged_networks(), train.config, tmp_path, torch.float32)
    policy = load_policy(tmp_path)
    session = Session(policy, "touch object 0")
    asked = []
    denoise = policy.transformer.denoise

    def listening(*arguments, **named):
        asked.append((arguments[2].clone(), named["video_time"]))
        return denoise(*arguments, **named)

    policy.transformer.denoise = listening
    session.observe(np.zeros((1, 16, 16, 3), np.uint8))
    prediction = session.predict(np.zeros(3, np.float32), steps=4)
    assert len(asked) == 4
    assert all(time == 999 and torch.equal(video, asked[0][0]) for video, time in asked)
    assert torch.equal(prediction.video_latents, asked[0][0][0])


def test_a_gradient_that_is_not_finite_changes_nothing(make_trainer):
    train = make_trainer()
    train.advance()
    before = {key: tensor.clone() for key, tensor in train.masters.items()}
    _, parameter = next(iter(train.parameters()))
    hook = parameter.register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(FloatingPointError, match="norm of its gradient nan"):
        train.advance()
    hook.remove()
    assert all(torch.equal(before[key], tensor) for key, tensor in train.masters.items())
    assert train.step == 1
    train.advance()
    assert train.step == 2 and all(tensor.isfinite().all() for tensor in train.masters.values())


@pytest.mark.parametrize("at", ["step", "publish"])
def test_an_interruption_in_the_middle_of_an_update_is_heard_behind_it(make_trainer, monkeypatch, at):
    whole, interrupted = make_trainer(), make_trainer()
    whole.advance()
    owner, name = {"step": (interrupted.optimiser, "step"), "publish": (interrupted, "_publish")}[at]
    act = getattr(owner, name)

    def interrupt() -> None:
        act()
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(owner, name, interrupt)
    with pytest.raises(KeyboardInterrupt):
        interrupted.advance()
    assert interrupted.step == 1
    for key, tensor in whole.masters.items():
        assert torch.equal(tensor, interrupted.masters[key]), key
        assert torch.equal(whole.average[key], interrupted.average[key]), key
