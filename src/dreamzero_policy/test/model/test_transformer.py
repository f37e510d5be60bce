"""Three verbs, one network: what training sees is what the robot gets."""

import copy
from dataclasses import replace

import pytest
import torch

from dreamzero_policy.model import transformer as module
from dreamzero_policy.model.blocks import attend
from dreamzero_policy.model.checkpoint import cast
from dreamzero_policy.model.transformer import WorldActionTransformer

HEIGHT = WIDTH = 4  # latent rows and columns: 4 tokens a frame


def window(config, batch: int = 1, chunks: int = 2, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random inputs of a teacher-forced window."""
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    frames, actions = 1 + 2 * chunks, config.geometry.actions_per_chunk * chunks
    latent = (batch, config.autoencoder.latent_channels, frames, HEIGHT, WIDTH)
    levels = 1000 * torch.rand(batch, chunks, generator=generator)
    video_time = torch.cat([torch.full((batch, 1), 300.0), levels.repeat_interleave(2, 1)], 1)
    return {
        "clean": randn(*latent),
        "noisy": randn(*latent),
        "condition": randn(batch, 4 + latent[1], *latent[2:]),
        "action": randn(batch, actions, config.geometry.max_action_dim),
        "state": randn(batch, chunks, config.geometry.max_state_dim),
        "video_time": video_time,
        "action_time": levels.repeat_interleave(config.geometry.actions_per_chunk, 1),
        "text": randn(batch, config.text_encoder.text_length, config.text_encoder.dim),
        "image": randn(batch, config.image_encoder.tokens, config.image_encoder.dim),
    }


def forward(network, inputs: dict[str, torch.Tensor], **options):
    inputs = dict(inputs)
    context = network.context(inputs.pop("text"), inputs.pop("image"))
    return network(**inputs, context=context, **options)


def step(network, inputs: dict[str, torch.Tensor], chunk: int, state_attention: str):
    """The same chunk through cache and denoise; ``chunk`` counts from 0."""
    batch, per_chunk = len(inputs["clean"]), network.config.actions_per_chunk
    context = network.context(inputs["text"], inputs["image"])
    cache = network.empty_cache(batch=batch, frames=9, height=HEIGHT, width=WIDTH)
    for block in [slice(0, 1)] + [slice(1 + 2 * i, 3 + 2 * i) for i in range(chunk)]:
        network.observe(
            cache,
            context,
            inputs["clean"][:, :, block],
            inputs["condition"][:, :, block],
            first_frame=block.start,
        )
    first = 1 + 2 * chunk
    return network.denoise(
        cache,
        context,
        inputs["noisy"][:, :, first : first + 2],
        inputs["condition"][:, :, first : first + 2],
        inputs["action"][:, per_chunk * chunk : per_chunk * (chunk + 1)],
        inputs["state"][:, chunk : chunk + 1],
        first_frame=first,
        video_time=inputs["video_time"][:, first],
        action_time=inputs["action_time"][:, per_chunk * chunk],
        state_attention=state_attention,
    )


@pytest.mark.parametrize("state_attention", ["training", "release"])
@pytest.mark.parametrize("batch", [1, 2])
def test_a_teacher_forced_chunk_is_a_step_with_the_cache(small_config, small_transformer, state_attention, batch):
    inputs = window(small_config, batch, chunks=3)
    video, action = forward(small_transformer, inputs, state_attention=state_attention)
    for chunk in range(3):
        alone_video, alone_action = step(small_transformer, inputs, chunk, state_attention)
        torch.testing.assert_close(alone_video, video[:, :, 1 + 2 * chunk : 3 + 2 * chunk], rtol=0, atol=5e-6)
        torch.testing.assert_close(alone_action, action[:, 3 * chunk : 3 * chunk + 3], rtol=0, atol=5e-6)


def test_the_state_attention_makes_a_difference(small_config, small_transformer):
    inputs = window(small_config)
    released, trained = (step(small_transformer, inputs, 1, mode)[0] for mode in ("release", "training"))
    assert (released - trained).abs().max() > 1e-5


def test_two_rows_are_two_single_rows(small_config, small_transformer):
    inputs = window(small_config, batch=2)
    video, action = forward(small_transformer, inputs)
    for row in range(2):
        one = {name: tensor[row : row + 1] for name, tensor in inputs.items()}
        one_video, one_action = forward(small_transformer, one)
        torch.testing.assert_close(one_video, video[row : row + 1], rtol=0, atol=5e-6)
        torch.testing.assert_close(one_action, action[row : row + 1], rtol=0, atol=5e-6)


def test_padding_chunks_at_the_end_changes_nothing_before_them(small_config, small_transformer):
    inputs = window(small_config, chunks=3)
    video = ("clean", "noisy", "condition")
    short = {name: tensor[:, :, :5] if name in video else tensor for name, tensor in inputs.items()}
    short |= {"action": inputs["action"][:, :6], "action_time": inputs["action_time"][:, :6]}
    short |= {"state": inputs["state"][:, :2], "video_time": inputs["video_time"][:, :5]}
    torch.testing.assert_close(
        forward(small_transformer, short)[0], forward(small_transformer, inputs)[0][:, :, :5], rtol=0, atol=5e-6
    )


def test_branches_of_guidance_may_share_their_latents(small_config, small_transformer):
    """One row of latents with two prompts is the same as the row twice."""
    inputs = window(small_config, batch=2)
    inputs["image"] = inputs["image"][:1]
    per_row = ("clean", "noisy", "condition", "action", "state", "video_time", "action_time")
    shared = {name: t[:1] if name in per_row else t for name, t in inputs.items()}
    doubled = {name: t[:1].repeat(2, *[1] * (t.ndim - 1)) if name in per_row else t for name, t in inputs.items()}

    def run(rows: dict[str, torch.Tensor]):
        context = small_transformer.context(rows["text"], rows["image"])
        cache = small_transformer.empty_cache(batch=2, frames=3, height=HEIGHT, width=WIDTH)
        small_transformer.observe(cache, context, rows["clean"][:, :, :1], rows["condition"][:, :, :1], first_frame=0)
        return small_transformer.denoise(
            cache,
            context,
            rows["noisy"][:, :, 1:3],
            rows["condition"][:, :, 1:3],
            rows["action"][:, :3],
            rows["state"][:, :1],
            first_frame=1,
            video_time=500.0,
            action_time=500.0,
        )

    for one, two in zip(run(shared), run(doubled), strict=True):
        assert one.shape == two.shape
        torch.testing.assert_close(one, two, rtol=0, atol=5e-6)


def test_denoising_leaves_the_cache_bit_for_bit(small_config, small_transformer):
    inputs = window(small_config)
    context = small_transformer.context(inputs["text"], inputs["image"])
    cache = small_transformer.empty_cache(batch=1, frames=3, height=HEIGHT, width=WIDTH)
    cache.keys.zero_()
    cache.values.zero_()
    small_transformer.observe(cache, context, inputs["clean"][:, :, :1], inputs["condition"][:, :, :1], first_frame=0)
    before = cache.clone()
    small_transformer.denoise(
        cache,
        context,
        inputs["noisy"][:, :, 1:3],
        inputs["condition"][:, :, 1:3],
        inputs["action"][:, :3],
        inputs["state"][:, :1],
        first_frame=1,
        video_time=700.0,
        action_time=300.0,
    )
    assert cache.length == before.length == 4
    assert torch.equal(cache.keys, before.keys)
    assert torch.equal(cache.values, before.values)


def test_video_and_action_may_have_different_times(small_config, small_transformer):
    inputs = window(small_config)
    inputs["action_time"] = inputs["action_time"] * 0.5
    video, action = forward(small_transformer, inputs)
    alone_video, alone_action = step(small_transformer, inputs, 1, "training")
    torch.testing.assert_close(alone_video, video[:, :, 3:5], rtol=0, atol=5e-6)
    torch.testing.assert_close(alone_action, action[:, 3:6], rtol=0, atol=5e-6)


def test_a_pass_at_the_wrong_frame_names_both_lengths(small_config, small_transformer):
    inputs = window(small_config)
    context = small_transformer.context(inputs["text"], inputs["image"])
    cache = small_transformer.empty_cache(batch=1, frames=3, height=HEIGHT, width=WIDTH)
    with pytest.raises(ValueError, match="frame 1 needs 4 tokens in the cache \\(4 a frame\\), it has 0"):
        small_transformer.observe(
            cache, context, inputs["clean"][:, :, 1:3], inputs["condition"][:, :, 1:3], first_frame=1
        )


def test_a_window_with_the_wrong_number_of_actions_names_the_numbers(small_config, small_transformer):
    inputs = window(small_config)
    inputs["action"] = inputs["action"][:, :5]
    with pytest.raises(ValueError, match="5 latent frames have 2 chunks of 3 actions and one state; got 5 actions"):
        forward(small_transformer, inputs)


def test_every_parameter_learns_and_checkpointing_changes_no_gradient(small_config):
    torch.manual_seed(0)
    network = WorldActionTransformer.from_model_config(small_config).train()
    inputs = window(small_config)

    def gradients() -> dict[str, torch.Tensor]:
        network.zero_grad()
        video, action = forward(network, inputs)
        (video.square().mean() + action.square().mean()).backward()
        return {name: parameter.grad.clone() for name, parameter in network.named_parameters()}

    plain = gradients()
    network.enable_gradient_checkpointing()
    for name, gradient in gradients().items():
        torch.testing.assert_close(gradient, plain[name], msg=name)


def test_a_saved_network_comes_back_equal(small_config, small_transformer, tmp_path):
    small_transformer.save_pretrained(tmp_path)
    back = WorldActionTransformer.from_pretrained(tmp_path)
    inputs = window(small_config)
    for a, b in zip(forward(small_transformer, inputs), forward(back, inputs), strict=True):
        assert torch.equal(a, b)


def test_bfloat16_stays_close(small_config, small_transformer):
    half = copy.deepcopy(small_transformer)
    cast(half, torch.bfloat16)
    inputs = window(small_config)
    rounded = {n: t if "time" in n else t.to(torch.bfloat16) for n, t in inputs.items()}
    for a, b in zip(forward(small_transformer, inputs), forward(half, rounded), strict=True):
        assert (a - b.float()).norm() < 0.05 * a.norm()


@pytest.mark.parametrize("masked", [False, True])
def test_attention_by_matrix_products_is_attention(masked):
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 3, length, 16).to(torch.bfloat16) for length in (5, 7, 7))
    mask = torch.rand(5, 7) > 0.3 if masked else None
    fast = attend(query, key, value, mask).float()
    plain = attend(query.float(), key.float(), value.float(), mask)
    torch.testing.assert_close(fast, plain, rtol=0, atol=0.03)


def test_the_module_has_no_cache_of_its_own(small_transformer):
    held = {type(value).__name__ for m in small_transformer.modules() for value in vars(m).values()}
    assert module.KVCache.__name__ not in held


def network_that(config, predicts: str) -> WorldActionTransformer:
    return WorldActionTransformer.from_model_config(
        replace(config, transformer=replace(config.transformer, predicts=predicts))
    )


@pytest.mark.parametrize("time", [1000.0, 400.0])
def test_a_network_that_predicts_the_sample_says_the_velocity_that_leads_there(small_config, time):
    inputs = window(small_config, chunks=1)
    inputs["video_time"], inputs["action_time"] = (
        torch.full_like(inputs[name], time) for name in ("video_time", "action_time")
    )
    of_sample = network_that(small_config, predicts="sample")
    direct = network_that(small_config, predicts="velocity")
    direct.load_state_dict(of_sample.state_dict())
    with torch.no_grad():
        heads, velocities = forward(direct, inputs), forward(of_sample, inputs)
    for head, velocity, noisy in zip(heads, velocities, (inputs["noisy"], inputs["action"]), strict=True):
        torch.testing.assert_close(noisy - time / 1000 * velocity, head, rtol=1e-4, atol=1e-4)


def test_near_the_data_a_sample_is_not_divided_by_nothing(small_config):
    network, noisy = network_that(small_config, predicts="sample"), torch.ones(1, 2)
    assert network.velocity(torch.zeros(1, 2), noisy, torch.tensor(0.0)).tolist() == [[20.0, 20.0]]


def test_what_a_network_predicts_is_velocity_or_sample(small_config):
    with pytest.raises(ValueError, match=r"predicts is 'noise', expected one of \('velocity', 'sample'\)"):
        network_that(small_config, predicts="noise")
