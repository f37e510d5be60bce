"""Whoever casts the transformer, and however: norms and times stay float32, and the numbers stay near the reference."""

import copy

import pytest
import torch

from dreamzero_policy.model.transformer import WorldActionTransformer

CASTS = {
    "to": lambda network: network.to(torch.bfloat16),
    "to with device": lambda network: network.to("cpu", torch.bfloat16),
    "bfloat16": lambda network: network.bfloat16(),
    "half": lambda network: network.half(),
}


def kept(name: str) -> bool:
    return not set(WorldActionTransformer.keep_in_float32).isdisjoint(name.split("."))


def inputs(config, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    channels, geometry = config.autoencoder.latent_channels, config.geometry
    shapes = {
        "past": (1, channels, 1, 4, 4),
        "latents": (1, channels, 2, 4, 4),
        "condition": (1, 4 + channels, 3, 4, 4),
        "action": (1, geometry.actions_per_chunk, geometry.max_action_dim),
        "state": (1, 1, geometry.max_state_dim),
        "text": (1, config.text_encoder.text_length, config.text_encoder.dim),
        "image": (1, config.image_encoder.tokens, config.image_encoder.dim),
    }
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}


@torch.inference_mode()
def predict(network, given: dict[str, torch.Tensor]) -> torch.Tensor:
    """Observe one frame, denoise one chunk; both velocities as one float32 vector."""
    context = network.context(given["text"], given["image"])
    cache = network.empty_cache(batch=1, frames=3, height=4, width=4)
    network.observe(cache, context, given["past"], given["condition"][:, :, :1], first_frame=0)
    velocities = network.denoise(
        cache,
        context,
        given["latents"],
        given["condition"][:, :, 1:],
        given["action"],
        given["state"],
        first_frame=1,
        video_time=600.0,
        action_time=300.0,
    )
    return torch.cat([velocity.float().flatten() for velocity in velocities])


@pytest.mark.parametrize("cast", CASTS.values(), ids=CASTS.keys())
def test_a_cast_leaves_norms_and_times_in_float32_bit_for_bit(small_transformer, cast):
    network = cast(copy.deepcopy(small_transformer))
    before = dict(small_transformer.named_parameters())
    names = [name for name, parameter in network.named_parameters() if parameter.dtype == torch.float32]
    assert names == [name for name in before if kept(name)]
    assert any("norm2" in name for name in names)
    for name, parameter in network.named_parameters():
        if kept(name):
            assert torch.equal(parameter, before[name]), name


def test_a_cast_there_and_back_returns_the_dtype_and_rounds_the_rest_only(small_transformer):
    network = copy.deepcopy(small_transformer).bfloat16().float()
    for name, parameter in small_transformer.named_parameters():
        rounded = parameter if kept(name) else parameter.bfloat16().float()
        assert torch.equal(network.get_parameter(name), rounded), name


def test_kept_parts_may_become_more_precise(small_transformer):
    network = copy.deepcopy(small_transformer).double()
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float64}


def test_a_cast_on_the_meta_device_has_the_same_dtypes(small_config):
    with torch.device("meta"):
        network = WorldActionTransformer.from_model_config(small_config).bfloat16()
    network = network.to_empty(device="cpu")
    assert {name for name, p in network.named_parameters() if p.dtype == torch.float32} == {
        name for name, _ in network.named_parameters() if kept(name)
    }
    assert {parameter.device.type for parameter in network.parameters()} == {"cpu"}


def test_gradients_follow_the_rule_of_their_parameters(small_transformer):
    network = copy.deepcopy(small_transformer).requires_grad_(True)
    for parameter in network.parameters():
        parameter.grad = torch.full_like(parameter, 1 / 3)
    for parameter in network.bfloat16().parameters():
        assert parameter.grad.dtype == parameter.dtype


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_narrow_dtype_stays_within_five_per_cent(small_config, small_transformer, dtype):
    reference = predict(small_transformer, inputs(small_config))
    narrow = predict(copy.deepcopy(small_transformer).to(dtype), inputs(small_config, dtype))
    assert 0 < (narrow - reference).norm() < 0.05 * reference.norm()


def test_autocast_stays_within_five_per_cent_and_caches_in_its_dtype(small_config, small_transformer):
    given = inputs(small_config)
    reference = predict(small_transformer, given)
    with torch.autocast("cpu", torch.bfloat16):
        assert small_transformer.empty_cache(batch=1, frames=1, height=4, width=4).keys.dtype == torch.bfloat16
        result = predict(small_transformer, given)
    assert 0 < (result - reference).norm() < 0.05 * reference.norm()


@pytest.mark.parametrize("width", [32, 512, 4096])
def test_control_layers_keep_the_size_of_what_passes_through_at_any_width(width):
    from dreamzero_policy.model.control import EmbodimentLinear

    torch.manual_seed(0)
    out = EmbodimentLinear(width, 256)(torch.randn(64, width))
    assert 0.85 < out.std() < 1.15


def test_weights_to_start_from_include_the_control_path(small_config):
    torch.manual_seed(0)
    network = WorldActionTransformer.from_model_config(small_config)
    for parameter in network.action_encoder.parameters():
        torch.nn.init.constant_(parameter, 7.0)
    network.initialise_weights()
    layer = network.action_encoder.W2
    assert abs(layer.W.std() / layer.W.shape[1] ** -0.5 - 1) < 0.2
    assert not layer.b.any()
