"""The training pass gives what the transformer's own forward gives, velocities and gradients."""

from dataclasses import replace

import pytest
import torch

from dreamzero_policy.model.conditioning import TextConditioner
from dreamzero_policy.training.latents import collate
from dreamzero_policy.training.noise import NoiseSettings, corrupt
from dreamzero_policy.training.objective import losses
from dreamzero_policy.training.window_pass import window_tokens


def general(train, noisy):
    """Velocities by ``WorldActionTransformer.forward``, with text that keeps its padding."""
    transformer, batch = train.networks["transformer"], noisy.batch
    text = TextConditioner(train.networks["text_encoder"], train.tokenizer).encode(batch.prompts)
    context = transformer.context(text, train.image.encode(batch.first_frame))
    per_chunk = batch.action.shape[1] // batch.state.shape[1]
    return transformer(
        noisy.history,
        noisy.video,
        None,
        noisy.action,
        batch.state,
        noisy.video_time,
        noisy.action_time.repeat_interleave(per_chunk, 1),
        context,
        state_attention=train.config.sampler.state_attention,
    )


@pytest.fixture(params=[("training", "sample"), ("release", "velocity")], ids=" ".join)
def train(request, make_trainer, make_config):
    state_attention, predicts = request.param
    train = make_trainer(config=make_config(layers=2, state_attention=state_attention, predicts=predicts))
    for network in train.networks.values():  # the video head starts at zero, and norms at one
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(parameter.numel()))
    return train


@pytest.fixture
def noisy(train, make_window):
    """Windows of one to three chunks with prompts of different lengths, every chunk at two times."""
    batch = collate([make_window(1, 0), make_window(3, 100), make_window(2, 100_000)], train.config)
    return corrupt(batch, train.table, torch.Generator().manual_seed(0), NoiseSettings(noise="flash"))


def gradients(train, velocities, noisy):
    train.zero_gradients()
    losses(*velocities, noisy).total.backward()
    return {key: parameter.grad for key, parameter in train.parameters() if parameter.grad is not None}


def test_velocities_are_those_of_the_general_pass(train, noisy):
    with torch.no_grad():
        found, expected = train.velocities(noisy), general(train, noisy)
    for ours, theirs, frames in zip(found, expected, (True, False), strict=True):
        for item, chunks in enumerate((1, 3, 2)):
            part = (item, slice(None), slice(0, 1 + 2 * chunks)) if frames else (item, slice(0, 4 * chunks))
            assert torch.allclose(ours[part], theirs[part], rtol=1e-4, atol=1e-4)


def test_gradients_are_those_of_the_general_pass(train, noisy):
    found, expected = (
        gradients(train, velocities(noisy), noisy) for velocities in (train.velocities, lambda n: general(train, n))
    )
    assert set(found) == set(expected)
    largest = max(gradient.norm() for gradient in expected.values())  # what cancels to little is rounded like it
    for key, gradient in expected.items():
        assert (found[key] - gradient).norm() <= 1e-3 * gradient.norm() + 1e-6 * max(1.0, largest), key


def test_gradient_checkpointing_changes_nothing(train, noisy):
    plain = gradients(train, train.velocities(noisy), noisy)
    train.networks["transformer"].gradient_checkpointing = True
    again = gradients(train, train.velocities(noisy), noisy)
    for key, gradient in plain.items():
        assert torch.equal(again[key], gradient), key


def test_actions_alone_are_the_actions_of_the_whole_pass(train, noisy):
    with torch.no_grad():
        _, whole = train.velocities(noisy)
        none, alone = train.velocities(noisy, want_video=False)
    assert none is None
    assert torch.allclose(alone, whole, rtol=1e-4, atol=1e-4)


def test_without_frame_0_the_others_are_as_with_it(train, noisy):
    with torch.no_grad():
        video, action = train.velocities(noisy)
        train.settings = replace(train.settings, first_frame=False)
        others, alone = train.velocities(noisy)
    assert torch.allclose(others, video[:, :, 1:], rtol=1e-4, atol=1e-4)
    assert torch.allclose(alone, action, rtol=1e-4, atol=1e-4)


def test_gradients_without_frame_0_are_those_of_the_general_pass_whose_frame_0_has_no_loss(train, noisy):
    train.settings = replace(train.settings, first_frame=False)
    found = gradients(train, train.velocities(noisy), noisy)
    whole, action = general(train, noisy)
    expected = gradients(train, (whole[:, :, 1:], action), noisy)
    assert set(found) == set(expected)
    largest = max(gradient.norm() for gradient in expected.values())
    for key, gradient in expected.items():
        assert (found[key] - gradient).norm() <= 1e-3 * gradient.norm() + 1e-6 * max(1.0, largest), key


def test_looks_are_what_the_control_tokens_of_every_layer_take_from_the_picture(train, noisy):
    transformer, conditioning, looks = train.networks["transformer"], train.conditioning(noisy.batch), []
    given = (noisy.history, noisy.video, noisy.action, noisy.batch.state, noisy.video_time, noisy.action_time)
    with torch.no_grad():
        tokens, _ = window_tokens(
            transformer, *given, conditioning, state_attention=train.config.sampler.state_attention, looks=looks
        )
        predicted = transformer._to_action(tokens.control[:, :, :-1].flatten(1, 2))
        per_chunk = noisy.action.shape[1] // noisy.batch.state.shape[1]
        times = noisy.action_time.repeat_interleave(per_chunk, 1)[..., None]
        velocity = transformer.velocity(predicted, noisy.action, times)
        assert torch.allclose(velocity, train.velocities(noisy)[1], atol=1e-4)
        image = transformer.condition_embedder.image_embedder(conditioning.image)
        for look, block in zip(looks, transformer.blocks, strict=True):
            assert look.query.shape[2] == noisy.action.shape[1] + noisy.batch.state.shape[1]
            scores = look.query @ look.key.transpose(-1, -2) * look.query.shape[-1] ** -0.5
            taken = (scores.softmax(-1) @ block.image_key_value(image).value).transpose(1, 2).flatten(2)
            assert torch.allclose(look.taken, taken, atol=1e-5)
