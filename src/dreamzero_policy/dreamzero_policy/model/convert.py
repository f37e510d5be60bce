"""Writing a checkpoint in another layout, tensor by tensor.

Nothing is loaded: tensors go from the mapped file of the source to the new file one at a time, so memory stays at the
size of the largest. What the source says beside its weights (the released configuration files, contract, statistics,
tensors without a place here) goes along, so that release → ours → release gives the same tensors and files again.

:func:`blank_source` stands for a model without weights; written, it is a checkpoint with complete headers and holes in
place of the data.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
import yaml
from torch import Tensor

from dreamzero_policy.model import release
from dreamzero_policy.model.config import ModelConfig
from dreamzero_policy.model.release_config import (
    CONF_FILE,
    CONFIG_FILE,
    METADATA_FILE,
)
from dreamzero_policy.model.release_documents import release_conf, release_document, release_metadata
from dreamzero_policy.model.source import (
    MODEL_INDEX,
    RELEASE_FILES,
    RELEASE_FOLDER,
    UNUSED_FILE,
    Component,
    Source,
    empty_components,
    is_alias,
)
from dreamzero_policy.model.weights import DTYPE_NAMES, DTYPES, SHARD_BYTES, CheckpointError, TensorInfo, write_weights

LAYOUTS = ("dreamzero", "diffusers", "release")
COMPANIONS = ("contract.yaml", "statistics.json", "tokenizer")  # files and folders that go along as they are
WEIGHT_FILE = {
    "transformer": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
    "image_encoder": "model.safetensors",
}


def blank_source(config: ModelConfig) -> Source:
    """A model of the given sizes without weights."""
    return Source(Path(), "dreamzero", config, empty_components(config))


def convert(
    source: Source,
    destination: str | Path,
    layout: str,
    *,
    shard_bytes: int = SHARD_BYTES,
    dtype: torch.dtype = torch.bfloat16,
) -> None:
    """Write an opened checkpoint in the given layout.

    Args:
        source: complete, or from :func:`blank_source`.
        destination: a folder that does not exist or is empty.
        layout: one of :data:`LAYOUTS`.
        shard_bytes: largest data of one file.
        dtype: of a blank source's tensors; others keep theirs.

    Raises:
        CheckpointError: the source is incomplete, or the destination is in use.
        ValueError: unknown layout.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout is {layout!r}, expected one of {LAYOUTS}")
    destination = Path(destination)
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise CheckpointError(f"{destination} exists and is not an empty folder")
    blank = not any(component.stored for component in source.components.values())
    if not blank:
        source.require_complete()
    destination.mkdir(parents=True, exist_ok=True)
    write = _write_release if layout == "release" else _write_folders
    write(source, destination, layout, shard_bytes, DTYPE_NAMES[dtype] if blank else None)
    for name in COMPANIONS:
        origin = source.path / name
        if not blank and origin.is_dir():
            shutil.copytree(origin, destination / name)
        elif not blank and origin.is_file():
            shutil.copyfile(origin, destination / name)


def _info(component: Component, key: str, blank_dtype: str | None) -> TensorInfo:
    """Dtype and shape of one of our tensors."""
    return TensorInfo(blank_dtype or component.stored[key].info.dtype, component.shapes[key])


# ------------------------------------------------------------------------------------------------- folders


def _write_folders(source: Source, destination: Path, layout: str, shard_bytes: int, blank: str | None) -> None:
    for name, component in source.components.items():
        keys = [key for key in component.shapes if not is_alias(key)]
        tensors = {key: _info(component, key, blank) for key in keys}
        get = None if blank else component.tensor
        write_weights(destination / name, WEIGHT_FILE[name], tensors, get, shard_bytes=shard_bytes)
        _write_component_config(component, destination / name, tensors)
    if source.spare:
        tensors = {key: stored.info for key, stored in source.spare.items()}
        write_weights(destination, UNUSED_FILE, tensors, lambda key: source.spare[key].weights[source.spare[key].key])
    _write_json(destination / CONFIG_FILE, source.config.to_dict())
    if source.release is not None and source.release.folder is not None:
        _copy_release_files(source, destination / RELEASE_FOLDER)
    if layout == "diffusers":
        _make_readable_for_diffusers(source.config, destination)


def _write_component_config(component: Component, folder: Path, tensors: dict[str, TensorInfo]) -> None:
    network = component.network
    if hasattr(network, "save_config"):
        network.save_config(folder)
    else:
        network.config.architectures = [type(network).__name__]
        network.config.dtype = DTYPES[Counter(info.dtype for info in tensors.values()).most_common(1)[0][0]]
        network.config.save_pretrained(folder)


def _make_readable_for_diffusers(config: ModelConfig, destination: Path) -> None:
    """Add what diffusers' own classes need to open the folders; its Wan transformer then takes the video part."""
    path = destination / "transformer" / CONFIG_FILE
    wan = {"patch_size": [1, 2, 2], "added_kv_proj_dim": config.dim, "cross_attn_norm": True}
    _write_json(path, json.loads(path.read_text(encoding="utf-8")) | wan)
    index = {
        "_class_name": "WanImageToVideoPipeline" if config.transformer.image_condition else "WanPipeline",
        "transformer": ["diffusers", "WanTransformer3DModel"],
        "vae": ["diffusers", "AutoencoderKLWan"],
        "text_encoder": ["transformers", "UMT5EncoderModel"],
        "image_encoder": ["transformers", "CLIPVisionModel"],
    }
    _write_json(destination / MODEL_INDEX, index)


# ------------------------------------------------------------------------------------------------- release


def _write_release(source: Source, destination: Path, layout: str, shard_bytes: int, blank: str | None) -> None:
    config = source.config
    tensors: dict[str, TensorInfo] = {}
    readers: dict[str, Callable[[], Tensor]] = {}
    for component in source.components.values():
        parts: dict[str, list[str]] = {}
        for key in component.shapes:
            place = release.locate(component.name, key, config.autoencoder)
            if not is_alias(key):
                parts.setdefault(place.key, []).append(key)
            shape = release.stored_shape(place, component.shapes[key])
            tensors[place.key] = TensorInfo(_info(component, key, blank).dtype, shape)
        for name, keys in parts.items():
            readers[name] = _reader(component, keys, config, tensors[name].shape)
    if blank:
        for key, shape in release.without_place(config.image_encoder).items():
            tensors[key] = TensorInfo(blank, shape)
    for key, stored in source.spare.items():
        tensors[key] = stored.info
        readers[key] = lambda stored=stored: stored.weights[stored.key]
    get = None if blank else lambda key: readers[key]()
    write_weights(
        destination, RELEASE_FILES[0], dict(sorted(tensors.items())), get, shard_bytes=shard_bytes, always_index=True
    )
    if source.release is not None and source.release.folder is not None:
        _copy_release_files(source, destination)
        return
    companions = _companions(source)
    _write_json(destination / CONFIG_FILE, release_document(config))
    (destination / CONF_FILE).parent.mkdir(exist_ok=True)
    conf = yaml.safe_dump(release_conf(config), sort_keys=False)
    (destination / CONF_FILE).write_text(conf, encoding="utf-8")
    _write_json(destination / METADATA_FILE, release_metadata(*companions))


def _reader(component: Component, keys: list[str], config: ModelConfig, shape: tuple[int, ...]) -> Callable[[], Tensor]:
    """Reads one released tensor: one of ours in its shape there, or the three that are stacked in it."""
    if len(keys) == 1:
        return lambda: component.tensor(keys[0]).reshape(shape)
    thirds = sorted(keys, key=lambda key: release.locate(component.name, key, config.autoencoder).third)
    return lambda: torch.cat([component.tensor(key) for key in thirds])


def _copy_release_files(source: Source, destination: Path) -> None:
    """The configuration files of the release the source came from; merged adapters are no longer announced."""
    origin = source.release.folder
    for name in (CONFIG_FILE, CONF_FILE, METADATA_FILE):
        if (origin / name).is_file():
            (destination / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(origin / name, destination / name)
    if source.adapted:
        document = json.loads((destination / CONFIG_FILE).read_text(encoding="utf-8"))
        head = document["action_head_cfg"]
        head.get("config", head)["train_architecture"] = "full"
        _write_json(destination / CONFIG_FILE, document)
        conf = source.release.conf | {"save_lora_only": False, "train_architecture": "full"}
        (destination / CONF_FILE).write_text(yaml.safe_dump(conf, sort_keys=False), encoding="utf-8")


def _companions(source: Source) -> tuple[dict, dict]:
    """Contract and statistics of a checkpoint of ours as plain data, empty where there are none."""
    contract, statistics = (source.path / name for name in ("contract.yaml", "statistics.json"))
    if source.layout == "release" or not (contract.is_file() and statistics.is_file()):
        return {}, {}
    return yaml.safe_load(contract.read_text(encoding="utf-8")), json.loads(statistics.read_text(encoding="utf-8"))


def _write_json(path: Path, document: dict) -> None:
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
