"""Networks without memory, built in milliseconds: the modules that a checkpoint's tensors are hung into.

Building a large network the plain way takes longer than mapping its file, even on the meta device: every layer runs its
initialisation, and a transformer builds the same block again and again. Here initialisation is left out, one block is
built and copied, and what was built once for a configuration is copied for the next load. The result is the plain one's
equal in every name, shape and attribute.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable

import torch
from diffusers.configuration_utils import FrozenDict
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.initialization import no_init_weights

from dreamzero_policy.model.autoencoder import build_autoencoder
from dreamzero_policy.model.conditioning import build_image_encoder, build_text_encoder
from dreamzero_policy.model.config import ModelConfig
from dreamzero_policy.model.transformer import WorldActionTransformer

COMPONENTS = ("transformer", "vae", "text_encoder", "image_encoder")


def builders(config: ModelConfig) -> dict[str, Callable[[], nn.Module]]:
    """How each component is built, untrained."""
    return {
        "transformer": lambda: WorldActionTransformer.from_model_config(config),
        "vae": lambda: build_autoencoder(config.autoencoder),
        "text_encoder": lambda: build_text_encoder(config.text_encoder),
        "image_encoder": lambda: build_image_encoder(config.image_encoder),
    }


def build(config: ModelConfig) -> dict[str, nn.Module]:
    """The four networks, untrained, by component."""
    return {name: make() for name, make in builders(config).items()}


def build_skeletons(config: ModelConfig) -> dict[str, nn.Module]:
    """The four networks on the meta device, by component; nobody else has them."""
    return {name: _copy(network, {}) for name, network in _templates(config).items()}


@functools.lru_cache(maxsize=2)
def _templates(config: ModelConfig) -> dict[str, nn.Module]:
    one = {name: dataclasses.replace(getattr(config, name), num_layers=1) for name in COMPONENTS if name != "vae"}
    with torch.device("meta"), no_init_weights():
        networks = build(dataclasses.replace(config, **one))
    transformer, text, image = (networks[name] for name in COMPONENTS if name != "vae")
    _repeat(transformer.blocks, config.transformer.num_layers)
    transformer.register_to_config(num_layers=config.transformer.num_layers)
    _repeat(text.encoder.block, config.text_encoder.num_layers)
    for described in (text.config, text.encoder.config):
        described.num_layers = described.num_decoder_layers = config.text_encoder.num_layers
    _repeat(image.encoder.layers, config.image_encoder.num_layers)
    image.config.num_hidden_layers = config.image_encoder.num_layers
    return networks


def slots(network: nn.Module) -> dict[str, tuple[nn.Module, str]]:
    """Every name of the state dict to the module that holds it and its name there."""
    found = {}
    for prefix, module in network.named_modules(remove_duplicate=False):
        prefix = f"{prefix}." if prefix else ""
        names = [name for name, value in module._parameters.items() if value is not None]
        names += [name for name in module._buffers if name not in module._non_persistent_buffers_set]
        found |= {prefix + name: (module, name) for name in names}
    return found


def hang(tensor: Tensor, module: nn.Module, name: str) -> None:
    """Make a tensor the module's parameter or buffer, without a copy."""
    if name in module._parameters:
        gradient = module._parameters[name].requires_grad and tensor.is_floating_point()
        module._parameters[name] = nn.Parameter(tensor, requires_grad=gradient)
    else:
        module._buffers[name] = tensor


def _repeat(layers: nn.ModuleList, count: int) -> None:
    """Copies of the only layer, so that there are ``count``. They share its configuration, as built ones do."""
    for i in range(1, count):
        layers._modules[str(i)] = _numbered(_copy(layers[0], None), i)


def _copy(module: nn.Module, configs: dict[int, PreTrainedConfig] | None) -> nn.Module:
    """The module and everything below it, with parameters of its own on the meta device.

    ``configs`` are the copies of transformers' configurations made so far, so that modules which share one go on
    sharing it; with None they are not copied.
    """
    new = module.__class__.__new__(module.__class__)
    attributes = dict(vars(module))
    for name, value in attributes.items():
        if isinstance(value, dict | set | list) and not isinstance(value, FrozenDict):
            attributes[name] = value.copy()
        elif configs is not None and isinstance(value, PreTrainedConfig):
            if id(value) not in configs:
                configs[id(value)] = copy.deepcopy(value)
            attributes[name] = configs[id(value)]
    parameters, children = attributes["_parameters"], attributes["_modules"]
    for name, value in parameters.items():
        parameters[name] = value if value is None else nn.Parameter(value.data, value.requires_grad)
    for name, child in children.items():
        children[name] = child if child is None else _copy(child, configs)
    vars(new).update(attributes)
    return new


def _numbered(layer: nn.Module, index: int) -> nn.Module:
    """Tell the parts of a layer that know their number the right one."""
    for module in layer.modules():
        if "layer_idx" in module.__dict__ and module.layer_idx is not None:
            module.layer_idx = index
    return layer
