"""A model on disk: ``config.json`` and four component folders in the diffusers / transformers layout.

::

    config.json          the model configuration (config.py)
    transformer/         config.json, diffusion_pytorch_model.safetensors
    vae/                 config.json, diffusion_pytorch_model.safetensors
    text_encoder/        config.json, model.safetensors
    image_encoder/       config.json, model.safetensors

(``contract.yaml`` and ``statistics.json`` lie beside them; they belong to the runtime.) Weights are safetensors, in one
file or in shards with an index. Networks are built without memory and take the tensors of the file as they are, so
nothing is held twice. Whatever does not fit raises :class:`CheckpointError` with the file, the key and both shapes.

This file is the only home of file names and keys of checkpoints.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.models.clip.modeling_clip import CLIPVisionModel
from transformers.models.umt5.modeling_umt5 import UMT5EncoderModel

from dreamzero_policy.model.autoencoder import build_autoencoder
from dreamzero_policy.model.conditioning import build_image_encoder, build_text_encoder
from dreamzero_policy.model.config import ModelConfig
from dreamzero_policy.model.transformer import WorldActionTransformer

CONFIG_FILE = "config.json"
WEIGHT_FILES = ("diffusion_pytorch_model.safetensors", "model.safetensors")
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


# Names of the released checkpoints (dreamzero0/dreamzero at ab790c1).
RELEASE_PREFIXES = {
    "transformer": "action_head.model.",
    "vae": "action_head.vae.model.",
    "text_encoder": "action_head.text_encoder.",
    "image_encoder": "action_head.image_encoder.model.",
}
RELEASE_UNUSED = ("log_scale", "visual.head")
RELEASE_TEXT_NAMES = (
    ("token_embedding.", "shared."),
    ("blocks.", "encoder.block."),
    (".attn.", ".layer.0.SelfAttention."),
    (".pos_embedding.embedding.", ".layer.0.SelfAttention.relative_attention_bias."),
    (".norm1.", ".layer.0.layer_norm."),
    (".norm2.", ".layer.1.layer_norm."),
    (".ffn.gate.0.", ".layer.1.DenseReluDense.wi_0."),
    (".ffn.fc1.", ".layer.1.DenseReluDense.wi_1."),
    (".ffn.fc2.", ".layer.1.DenseReluDense.wo."),
)
RELEASE_IMAGE_NAMES = (
    ("visual.transformer.", "encoder.layers."),
    ("visual.cls_embedding", "embeddings.class_embedding"),
    ("visual.pos_embedding", "embeddings.position_embedding.weight"),
    ("visual.patch_embedding.", "embeddings.patch_embedding."),
    ("visual.pre_norm.", "pre_layrnorm."),
    ("visual.post_norm.", "post_layernorm."),
    (".attn.proj.", ".self_attn.out_proj."),
    (".attn.", ".self_attn."),
    (".norm1.", ".layer_norm1."),
    (".norm2.", ".layer_norm2."),
    (".mlp.0.", ".mlp.fc1."),
    (".mlp.2.", ".mlp.fc2."),
)


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be loaded; the message names the file and, where there is one, the key."""


@dataclass
class Networks:
    """The four networks of a model. Field names are the folder names."""

    transformer: WorldActionTransformer
    vae: AutoencoderKLWan
    text_encoder: UMT5EncoderModel
    image_encoder: CLIPVisionModel

    def items(self) -> list[tuple[str, nn.Module]]:
        """Folder name and network."""
        return [(f.name, getattr(self, f.name)) for f in fields(self)]


def builders(config: ModelConfig) -> dict[str, Callable[[], nn.Module]]:
    """How each component is built, untrained."""
    return {
        "transformer": lambda: WorldActionTransformer.from_model_config(config),
        "vae": lambda: build_autoencoder(config.autoencoder),
        "text_encoder": lambda: build_text_encoder(config.text_encoder),
        "image_encoder": lambda: build_image_encoder(config.image_encoder),
    }


def build(config: ModelConfig) -> Networks:
    """Untrained networks. Under ``torch.device("meta")`` they take no memory."""
    return Networks(**{name: make() for name, make in builders(config).items()})


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


def load(checkpoint: str | Path, dtype: torch.dtype | None = None) -> tuple[Networks, ModelConfig]:
    """Read a checkpoint written by :func:`save`, on the CPU, in the given dtype (default: as stored).

    Raises :class:`CheckpointError`.
    """
    checkpoint = Path(checkpoint)
    if not (checkpoint / CONFIG_FILE).is_file():
        raise CheckpointError(f"{checkpoint} is not a checkpoint: it has no {CONFIG_FILE}")
    config = ModelConfig.from_file(checkpoint / CONFIG_FILE)
    networks = Networks(**{name: load_network(checkpoint / name, make) for name, make in builders(config).items()})
    if dtype is not None:
        for _, network in networks.items():
            cast(network, dtype)
    return networks, config


def load_network(folder: Path, make: Callable[[], nn.Module]) -> nn.Module:
    """Build one network without memory and give it the tensors of its folder."""
    tensors = read_tensors(folder)
    with torch.device("meta"):
        network = make()
    expected = network.state_dict()
    tied = set(getattr(network, "_tied_weights_keys", None) or ())
    missing = [key for key in expected if key not in tensors and key not in tied]
    unexpected = [key for key in tensors if key not in expected]
    if missing or unexpected:
        raise CheckpointError(
            f"{folder}: {len(missing)} tensors are missing{_first(missing)}, "
            f"{len(unexpected)} are unexpected{_first(unexpected)}"
        )
    for key, tensor in tensors.items():
        if tensor.shape != expected[key].shape:
            raise CheckpointError(
                f"{folder}: {key} has shape {list(tensor.shape)} in the file, "
                f"the configuration makes it {list(expected[key].shape)}"
            )
    network.load_state_dict(tensors, strict=False, assign=True)
    if tied:
        network.tie_weights()
    _fill_computed_buffers(network, folder)
    return network.eval()


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder: one safetensors file, or the shards its index names. Pickles are refused."""
    if not folder.is_dir():
        raise CheckpointError(f"{folder} does not exist")
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return _read_file(folder / name)
        index = folder / f"{name}.index.json"
        if index.is_file():
            shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
            return {key: tensor for shard in shards for key, tensor in _read_file(folder / shard).items()}
    pickles = [path.name for path in folder.iterdir() if path.suffix in PICKLE_SUFFIXES]
    hint = f"; {pickles[0]} is a pickle and is not read, convert it to safetensors" if pickles else ""
    raise CheckpointError(f"{folder} has no weights, expected {' or '.join(WEIGHT_FILES)}{hint}")


def from_release(component: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of one component under their release names to the names used here; values are not touched.

    ``tensors`` may be a whole release checkpoint or one component of it; names carry the component's prefix. Tensors
    that the release carries and nothing uses (:data:`RELEASE_UNUSED`) are left out.

    Raises :class:`CheckpointError` when no name has the component's prefix.
    """
    from diffusers.loaders import single_file_utils  # slow to import and needed for released files only

    prefix = RELEASE_PREFIXES[component]
    own = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
    own = {key: tensor for key, tensor in own.items() if key not in RELEASE_UNUSED}
    if not own:
        raise CheckpointError(f"no tensor of the release begins with {prefix}")
    if component == "transformer":
        return single_file_utils.convert_wan_transformer_to_diffusers(own)
    if component == "vae":
        return single_file_utils.convert_wan_vae_to_diffusers(own)
    if component == "text_encoder":
        renamed = {_rename(key, RELEASE_TEXT_NAMES): tensor for key, tensor in own.items()}
        renamed["encoder.final_layer_norm.weight"] = renamed.pop("norm.weight")
        return {**renamed, "encoder.embed_tokens.weight": renamed["shared.weight"]}
    split = {}
    for key, tensor in own.items():
        if ".to_qkv." in key:  # query, key and value are stacked
            for name, part in zip("qkv", tensor.chunk(3), strict=True):
                split[_rename(key.replace("to_qkv", f"{name}_proj"), RELEASE_IMAGE_NAMES)] = part
        else:
            split[_rename(key, RELEASE_IMAGE_NAMES)] = tensor.flatten() if key.endswith("cls_embedding") else tensor
    split["embeddings.position_embedding.weight"] = split["embeddings.position_embedding.weight"].squeeze(0)
    return split


def _rename(key: str, names: tuple[tuple[str, str], ...]) -> str:
    """Apply replacements in order."""
    for old, new in names:
        key = key.replace(old, new)
    return key


def cast(network: nn.Module, dtype: torch.dtype) -> None:
    """Change the floating dtype in place, except where the network asks for float32 (norms, time embedding)."""
    for key, tensor in [*network.named_parameters(), *network.named_buffers()]:
        if tensor.is_floating_point():
            tensor.data = _cast(network, key, tensor.data, dtype)


def _cast(network: nn.Module, key: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    keep = getattr(network, "keep_in_float32", ())
    return tensor.to(torch.float32 if any(part in keep for part in key.split(".")) else dtype)


def _read_file(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(f"{path} is named by the index and does not exist")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read, it may be cut off: {error}") from error


def _fill_computed_buffers(network: nn.Module, folder: Path) -> None:
    """Give memory to the buffers that no file stores: CLIP's running position indices."""
    for name, buffer in list(network.named_buffers()):
        if buffer.is_meta:
            if not name.endswith("position_ids"):
                raise CheckpointError(f"{folder}: {name} is neither stored nor known how to compute")
            owner = network.get_submodule(name.rpartition(".")[0])
            owner.position_ids = torch.arange(buffer.shape[-1]).expand(buffer.shape)


def _first(keys: list[str]) -> str:
    return f" (first: {keys[0]})" if keys else ""
