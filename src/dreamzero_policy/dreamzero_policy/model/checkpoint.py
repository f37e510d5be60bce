"""A model in memory, from disk and to disk: build, initialise, load, save.

What can be loaded is described in source.py (three layouts); what is written here is ours::

    config.json          the model configuration (config.py)
    transformer/         config.json, diffusion_pytorch_model.safetensors
    vae/                 config.json, diffusion_pytorch_model.safetensors
    text_encoder/        config.json, model.safetensors
    image_encoder/       config.json, model.safetensors

(``contract.yaml`` and ``statistics.json`` lie beside them; they belong to the runtime.) Networks are built without
memory and take the tensors of the files as they are, so nothing is held twice. Whatever does not fit raises
:class:`CheckpointError` with the file, the key and both shapes.
"""

from __future__ import annotations

import copy
import gc
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from torch import Tensor, nn
from transformers.initialization import no_init_weights
from transformers.models.umt5.modeling_umt5 import UMT5EncoderModel

from dreamzero_policy.model.conditioning import ImageTower
from dreamzero_policy.model.config import ModelConfig
from dreamzero_policy.model.release_config import CONFIG_FILE
from dreamzero_policy.model.skeleton import build as build_networks
from dreamzero_policy.model.skeleton import builders, hang
from dreamzero_policy.model.source import (
    WEIGHT_FILES,
    Component,
    Part,
    Source,
    empty_component,
    fill_from_folder,
    open_source,
    require_fit,
)
from dreamzero_policy.model.transformer import WorldActionTransformer
from dreamzero_policy.model.weights import DTYPES, CheckpointError, open_weights

__all__ = [
    "CheckpointError",
    "Networks",
    "build",
    "builders",
    "cast",
    "initialise",
    "load",
    "load_network",
    "read_tensors",
    "save",
]


@dataclass
class Networks:
    """The four networks of a model. Field names are the folder names."""

    transformer: WorldActionTransformer
    vae: AutoencoderKLWan
    text_encoder: UMT5EncoderModel
    image_encoder: ImageTower

    def items(self) -> list[tuple[str, nn.Module]]:
        """Folder name and network."""
        return [(f.name, getattr(self, f.name)) for f in fields(self)]


def build(config: ModelConfig) -> Networks:
    """Untrained networks. Under ``torch.device("meta")`` they take no memory."""
    return Networks(**build_networks(config))


def initialise(
    config_path: str | Path, destination: str | Path, seed: int, dtype: torch.dtype = torch.bfloat16
) -> ModelConfig:
    """Write an untrained model; the same seed writes the same weights.

    ``config_path`` is a model configuration file. The destination is created; existing weights in it are replaced.
    """
    config = ModelConfig.from_file(config_path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        networks = build(config)
        networks.transformer.initialise_weights()
    save(networks, config, destination, dtype)
    return config


def save(networks: Networks, config: ModelConfig, destination: str | Path, dtype: torch.dtype | None = None) -> None:
    """Write networks and configuration. With a dtype, a cast copy is written; the networks stay as they are."""
    destination = Path(destination)
    destination.mkdir(parents=True, exist_ok=True)
    for name, network in networks.items():
        stored = network
        if dtype is not None:
            stored = copy.deepcopy(network)
            cast(stored, dtype)
        stored.save_pretrained(destination / name)
    (destination / CONFIG_FILE).write_text(json.dumps(config.to_dict(), indent=1) + "\n", encoding="utf-8")


def load(
    checkpoint: str | Path,
    dtype: torch.dtype | None = None,
    *,
    base: str | Path | None = None,
    config: ModelConfig | None = None,
) -> tuple[Networks, ModelConfig]:
    """Read a checkpoint in any layout of source.py, on the CPU, in the given dtype (default: as stored).

    Weights that keep their dtype stay views of the mapped files. ``base`` is the checkpoint that an adapters-only one
    was trained on; ``config`` overrides what the directory says about the model.

    Raises :class:`CheckpointError`.
    """
    with collection_paused():
        source = open_source(checkpoint, base, config)
        return load_source(source, dtype), source.config


@contextmanager
def collection_paused() -> Iterator[None]:
    """Keep the garbage collector from walking over all imported modules again and again while many objects are made."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def load_source(source: Source, dtype: torch.dtype | None = None, part: Part | None = None) -> Networks:
    """The networks of an opened checkpoint, which is used up by it; of the transformer only its ``part``.

    Raises :class:`CheckpointError` unless it is complete.
    """
    source.require_complete()
    parts = {"transformer": part}
    return Networks(
        **{name: load_component(component, dtype, parts.get(name)) for name, component in source.components.items()}
    )


def load_network(folder: str | Path, make: Callable[[], nn.Module]) -> nn.Module:
    """One network from its folder, as stored. ``make`` builds it. Raises :class:`CheckpointError`."""
    folder = Path(folder)
    with torch.device("meta"), no_init_weights():
        component = empty_component(folder.name, make())
    _, unexpected = fill_from_folder(component, folder)
    require_fit(folder, [component], unexpected)
    return load_component(component)


def read_tensors(folder: str | Path) -> dict[str, Tensor]:
    """All tensors of a network's folder, views of its files. Raises :class:`CheckpointError`."""
    return dict(open_weights(Path(folder), WEIGHT_FILES))


def load_component(component: Component, dtype: torch.dtype | None = None, part: Part | None = None) -> nn.Module:
    """Give a network its tensors, or a part of each. Its modules were built without memory and take these as is."""
    network = component.network
    for key, (module, name) in component.slots.items():
        target = None
        if dtype is not None:
            target = dtype_of(network, key, DTYPES[component.stored[key].info.dtype], dtype)
        hang(component.tensor(key, target, part), module, name)
    if getattr(network, "_tied_weights_keys", None):
        network.tie_weights()
    _fill_computed_buffers(network)
    return network.eval()


def dtype_of(network: nn.Module, key: str, stored: torch.dtype, dtype: torch.dtype) -> torch.dtype:
    """What a tensor becomes when its network is cast: float32 where the network asks for it, integers as they are."""
    if not stored.is_floating_point:
        return stored
    keep = getattr(network, "keep_in_float32", ())
    return torch.float32 if any(part in keep for part in key.split(".")) else dtype


def cast(network: nn.Module, dtype: torch.dtype) -> None:
    """Change the floating dtype in place, except where the network asks for float32 (norms, time embedding)."""
    for key, tensor in [*network.named_parameters(), *network.named_buffers()]:
        tensor.data = tensor.data.to(dtype_of(network, key, tensor.dtype, dtype))


def _fill_computed_buffers(network: nn.Module) -> None:
    """Give memory to the buffers that no file stores: CLIP's running position indices."""
    for name, buffer in list(network.named_buffers()):
        if buffer.is_meta:
            if not name.endswith("position_ids"):
                raise CheckpointError(f"{type(network).__name__}: {name} is neither stored nor known how to compute")
            owner = network.get_submodule(name.rpartition(".")[0])
            owner.position_ids = torch.arange(buffer.shape[-1]).expand(buffer.shape)
