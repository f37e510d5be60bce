"""Networks built the fast way are the plain ones, and nobody else's."""

import dataclasses

import pytest
import torch

from dreamzero_policy.model.skeleton import build, build_skeletons, slots


def plain_values(module: torch.nn.Module) -> dict[str, object]:
    kinds = (int, float, str, bool, tuple, type(None))
    return {name: value for name, value in vars(module).items() if isinstance(value, kinds)}


def settings(network: torch.nn.Module) -> dict[str, object]:
    return dict(network.config) if isinstance(network.config, dict) else network.config.to_dict()


@pytest.fixture(scope="module")
def config(small_config):
    layers = {name: dataclasses.replace(getattr(small_config, name), num_layers=3) for name in ("text_encoder",)}
    return dataclasses.replace(small_config, **layers)


def test_they_equal_the_plain_networks_in_every_module_shape_and_attribute(config):
    with torch.device("meta"):
        plain = build(config)
    for name, network in build_skeletons(config).items():
        assert repr(network) == repr(plain[name])
        assert settings(network) == settings(plain[name])
        for (key, module), (other_key, other) in zip(network.named_modules(), plain[name].named_modules(), strict=True):
            assert (key, type(module)) == (other_key, type(other))
            assert plain_values(module) == plain_values(other), key
        ours, theirs = network.state_dict(), plain[name].state_dict()
        assert {k: (v.shape, v.dtype, v.device) for k, v in ours.items()} == {
            k: (v.shape, v.dtype, v.device) for k, v in theirs.items()
        }
        assert list(slots(network)) == list(ours)


def test_no_two_of_them_share_parameters_or_configuration(config):
    first, second = build_skeletons(config), build_skeletons(config)
    for name in first:
        own = {id(p) for p in first[name].parameters()}
        assert len(own) == len(list(first[name].parameters()))
        assert own.isdisjoint(id(p) for p in second[name].parameters())
    first["text_encoder"].config.dropout_rate = 0.5
    assert second["text_encoder"].config.dropout_rate == 0.0
