"""A checkpoint on disk, opened: what it is, and for every tensor of the four networks where it lies.

Opening reads configuration files and the headers of weight files, nothing else; it works the same for three layouts:

* ``dreamzero``: ``config.json`` (config.py) and four folders in the layout of diffusers and transformers;
* ``diffusers``: the same folders without our ``config.json``, as diffusers' Wan pipelines write them;
* ``release``: the released DreamZero checkpoints; all tensors in one row of shards under other names (release.py).
  Such a checkpoint may hold adapters only and then needs the checkpoint it was trained on.

What does not fit is collected (:attr:`Component.missing`, :attr:`Source.unexpected`, :attr:`Component.misfits`), for
inspection to print and for loading to refuse.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from dreamzero_policy.model import release
from dreamzero_policy.model.adapters import Adapter, find_adapters, is_factor, plain_name
from dreamzero_policy.model.config import ConfigError, ModelConfig
from dreamzero_policy.model.diffusers_config import config_of_folders
from dreamzero_policy.model.release_config import CONFIG_FILE, Release, is_release, read_release
from dreamzero_policy.model.skeleton import build_skeletons, slots
from dreamzero_policy.model.weights import CheckpointError, TensorInfo, Weights, open_weights

WEIGHT_FILES = ("diffusion_pytorch_model.safetensors", "model.safetensors")
RELEASE_FILES = ("model.safetensors",)
UNUSED_FILE = "unused.safetensors"
RELEASE_FOLDER = "release"  # in our layout: the configuration files of the release it was converted from
MODEL_INDEX = "model_index.json"
EMBEDDING = ("shared.weight", "encoder.embed_tokens.weight")  # two names of a text encoder's one tensor

# Takes the name of a network's tensor and the tensor, returns what of it a process keeps.
Part = Callable[[str, Tensor], Tensor]


@dataclass(frozen=True)
class Stored:
    """One tensor of a network as a checkpoint keeps it.

    ``third``: it is one of three equal parts, along axis 0, of what is in the file.
    """

    weights: Weights
    key: str
    third: int | None = None

    @property
    def info(self) -> TensorInfo:
        """Dtype and shape in the file, of the part."""
        info = self.weights.infos[self.key]
        if self.third is None:
            return info
        return replace(info, shape=(info.shape[0] // 3, *info.shape[1:]))

    def read(self, shape: tuple[int, ...]) -> Tensor:
        """The tensor as a view of the file."""
        tensor = self.weights[self.key]
        if self.third is not None:
            tensor = tensor.chunk(3)[self.third]
        return tensor.view(shape)


@dataclass
class Component:
    """One network: what it needs and what there is of it. All names are those of our network.

    ``network`` has no memory (it lies on the meta device) until loading hangs its tensors into their ``slots``.
    """

    name: str
    network: nn.Module
    shapes: dict[str, tuple[int, ...]]
    slots: dict[str, tuple[nn.Module, str]]
    stored: dict[str, Stored] = field(default_factory=dict)
    adapters: dict[str, Adapter] = field(default_factory=dict)
    misfits: list[str] = field(default_factory=list)

    @property
    def missing(self) -> list[str]:
        return [key for key in self.shapes if key not in self.stored]

    def tensor(self, key: str, dtype: torch.dtype | None = None, part: Part | None = None) -> Tensor:
        """One tensor: a view of the file unless the dtype changes or an adapter is merged into it.

        With ``part``, what that takes of it; the rest of the file is not read unless there is an adapter.
        """
        tensor = self.stored[key].read(self.shapes[key])
        if key in self.adapters:
            tensor = self.adapters[key].merge(tensor, dtype or tensor.dtype)
        if part is not None:
            tensor = part(key, tensor)
        return tensor if dtype is None else tensor.to(dtype)


@dataclass
class Source:
    """An opened checkpoint.

    Attributes:
        path: its directory.
        layout: ``dreamzero``, ``diffusers`` or ``release``.
        config: the model.
        components: the four networks by folder name.
        unexpected: names in the files that belong nowhere.
        unused: tensors that are known and that nothing uses; those without a place in our networks are kept in
            :attr:`spare`, so that they survive a conversion.
        spare: their weights, under released names.
        release: the release's own configuration, where there is one.
        adapted: number of adapters.
        needs_base: it holds adapters (or parts) only, and no base was given.
        notes: what was assumed in opening it.
    """

    path: Path
    layout: str
    config: ModelConfig
    components: dict[str, Component]
    unexpected: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    spare: dict[str, Stored] = field(default_factory=dict)
    release: Release | None = None
    adapted: int = 0
    needs_base: bool = False
    notes: list[str] = field(default_factory=list)

    def require_complete(self) -> None:
        """Raise :class:`CheckpointError` unless every tensor is there, fits, and has a place."""
        if self.needs_base:
            known = self.release.adapters.base if self.release else None
            raise CheckpointError(
                f"{self.path} holds {self.adapted} adapters and not the weights they adapt; pass the checkpoint it was "
                f"trained on as base{f' (its training run calls it {known})' if known else ''}"
            )
        require_fit(self.path, list(self.components.values()), self.unexpected)


def require_fit(path: Path, components: list[Component], unexpected: list[str]) -> None:
    """Raise :class:`CheckpointError` unless the components have all their tensors in their shapes and no others."""
    for component in components:
        if component.misfits:
            raise CheckpointError(f"{path}: {component.misfits[0]}")
    missing = [f"{component.name}: {key}" for component in components for key in component.missing]
    if missing or unexpected:
        raise CheckpointError(
            f"{path}: {len(missing)} tensors are missing{_first(missing)}, "
            f"{len(unexpected)} are unexpected{_first(unexpected)}"
        )


def open_source(
    path: str | Path,
    base: str | Path | None = None,
    config: ModelConfig | None = None,
    *,
    torch_files: bool = False,
) -> Source:
    """Open a checkpoint directory in any of the three layouts.

    Args:
        path: the directory.
        base: the checkpoint that adapters were trained on, in any layout.
        config: overrides what the directory says about the model; a diffusers layout says nothing about the canvas.
        torch_files: read .pt and .pth files where there are no safetensors.

    Raises :class:`CheckpointError` when there is no checkpoint, or its configuration or a header is broken.
    """
    path = Path(path)
    layout, described = layout_of(path)
    if layout == "release":
        source = _open_release(path, config, torch_files)
    else:
        notes: list[str] = []
        if config is None and described:
            config = _own_config(path)
        elif config is None:
            config, notes = config_of_folders(path)
        source = _open_folders(path, layout, config, torch_files)
        source.notes = notes
    if base is not None:
        _fill_from_base(source, open_source(base, config=source.config, torch_files=torch_files))
    return source


def layout_of(path: Path) -> tuple[str, bool]:
    """The layout of a directory, and whether its ``config.json`` describes the model.

    Raises :class:`CheckpointError` for a directory that is no checkpoint.
    """
    if not path.is_dir():
        raise CheckpointError(f"{path} is not a checkpoint: it is not a directory")
    config = path / CONFIG_FILE
    if config.is_file():
        try:
            document = json.loads(config.read_text(encoding="utf-8"))
        except ValueError as error:
            raise CheckpointError(f"{config} cannot be parsed: {error}") from error
        if not isinstance(document, dict) or not (is_release(document) or "geometry" in document):
            raise CheckpointError(f"{path} is not a checkpoint: {CONFIG_FILE} is neither a release's nor ours")
        if is_release(document):
            return "release", True
        return ("diffusers" if (path / MODEL_INDEX).is_file() else "dreamzero"), True
    if (path / "transformer" / CONFIG_FILE).is_file():
        return "diffusers", False
    raise CheckpointError(f"{path} is not a checkpoint: it has no {CONFIG_FILE}")


def config_of(path: Path) -> ModelConfig:
    """What a checkpoint directory in any of the three layouts says about its model, without a look at the weights.

    Raises :class:`CheckpointError` for a directory that is no checkpoint.
    """
    layout, described = layout_of(path)
    if layout == "release":
        return read_release(path).config
    return _own_config(path) if described else config_of_folders(path)[0]


def _own_config(path: Path) -> ModelConfig:
    try:
        return ModelConfig.from_file(path / CONFIG_FILE)
    except ConfigError as error:
        raise CheckpointError(str(error)) from error


def is_alias(key: str) -> bool:
    """Whether a tensor has another name in its network, under which it is stored."""
    return key == EMBEDDING[1]


def empty_components(config: ModelConfig) -> dict[str, Component]:
    """The four networks with their names and shapes, and nothing stored."""
    return {name: empty_component(name, network) for name, network in build_skeletons(config).items()}


def empty_component(name: str, network: nn.Module) -> Component:
    """One network with its names and shapes, and nothing stored."""
    places = slots(network)
    shapes = {key: tuple(getattr(module, own).shape) for key, (module, own) in places.items()}
    return Component(name, network, shapes, places)


def fill_from_folder(component: Component, folder: Path, torch_files: bool = False) -> tuple[list[str], list[str]]:
    """Note where a folder keeps a component's tensors; returns the names it has besides, unused and unexpected."""
    weights = open_weights(folder, WEIGHT_FILES, torch_files=torch_files)
    unused, unexpected = [], []
    for key in weights:
        own = key.removeprefix("vision_model.")  # as transformers before 5 names the tower's parts
        if own in component.shapes:
            _place(component, own, Stored(weights, key), component.shapes[own], f"{component.name}: {key}")
        elif own.endswith(".position_ids"):  # counted anew here
            unused.append(f"{component.name}: {key}")
        else:
            unexpected.append(f"{component.name}: {key}")
    _share_tied(component)
    return unused, unexpected


# ------------------------------------------------------------------------------------------------- folders


def _open_folders(path: Path, layout: str, config: ModelConfig, torch_files: bool) -> Source:
    source = Source(path, layout, config, empty_components(config))
    for name, component in source.components.items():
        unused, unexpected = fill_from_folder(component, path / name, torch_files)
        source.unused += unused
        source.unexpected += unexpected
    if (path / RELEASE_FOLDER / CONFIG_FILE).is_file():
        source.release = read_release(path / RELEASE_FOLDER)
    if (path / UNUSED_FILE).is_file():
        weights = open_weights(path, (UNUSED_FILE,))
        source.spare = {key: Stored(weights, key) for key in weights}
    inside = [
        release.locate("image_encoder", k, config.autoencoder).key for k in source.components["image_encoder"].shapes
    ]
    unused = release.known_unused(inside, config.image_encoder)
    source.unused += sorted({*unused, *source.spare})
    return source


def _share_tied(component: Component) -> None:
    """A text encoder's two names for its one embedding: files carry either."""
    if component.name == "text_encoder":
        for name, other in (EMBEDDING, EMBEDDING[::-1]):
            if name not in component.stored and other in component.stored:
                component.stored[name] = component.stored[other]


# ------------------------------------------------------------------------------------------------- release


def _open_release(path: Path, config: ModelConfig | None, torch_files: bool) -> Source:
    described = read_release(path)
    config = config or described.config
    source = Source(path, "release", config, empty_components(config), release=described)
    weights = open_weights(path, RELEASE_FILES, torch_files=torch_files)
    names = {plain_name(key): key for key in weights if not is_factor(key)}
    adapters = find_adapters(weights, described.adapters.scale)
    source.adapted = len(adapters)
    used, adapted = set(), set()
    for name, component in source.components.items():
        for key, own_shape in component.shapes.items():
            place = release.locate(name, key, config.autoencoder)
            if place.key in names:
                shape = release.stored_shape(place, own_shape)
                stored = Stored(weights, names[place.key], place.third)
                _place(component, key, stored, shape, f"{name}: {names[place.key]}")
                used.add(place.key)
            if place.key in adapters:
                component.adapters[key] = adapters[place.key]
                adapted.add(place.key)
    rest = [name for name in names if name not in used]
    without_place = set(release.without_place(config.image_encoder))
    source.spare = {key: Stored(weights, names[key]) for key in rest if key in without_place}
    source.unexpected = [names[key] for key in rest if key not in without_place]
    source.unexpected += [adapters[key].a for key in adapters if key not in adapted]
    source.unused = release.known_unused(names, config.image_encoder)
    partial = bool(adapters) or described.adapters.only
    source.needs_base = partial and any(component.missing for component in source.components.values())
    return source


def _fill_from_base(source: Source, base: Source) -> None:
    """Take from the base what the checkpoint itself does not have."""
    for name, component in source.components.items():
        found = base.components[name]
        for key in component.missing:
            if key in found.stored:
                component.stored[key] = found.stored[key]
        component.misfits += found.misfits
    for key, stored in base.spare.items():
        source.spare.setdefault(key, stored)
    source.unused = sorted({*source.unused, *base.unused})
    source.needs_base = False


def _place(component: Component, key: str, stored: Stored, shape: tuple[int, ...], label: str) -> None:
    """Note where a tensor lies, and whether its shape in the file is what the configuration makes it."""
    found = stored.weights.infos[stored.key]
    component.stored[key] = stored
    if found.shape != shape:
        component.misfits.append(
            f"{label} has shape {list(found.shape)} in {found.file.name}, the configuration makes it {list(shape)}"
        )


def _first(keys: list[str]) -> str:
    return f" (first: {keys[0]})" if keys else ""
