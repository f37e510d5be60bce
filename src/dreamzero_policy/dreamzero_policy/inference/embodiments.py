"""What a checkpoint says about robots, and whether a contract fits it.

A checkpoint of ours carries one contract and its statistics. A release carries any number of embodiments under tags:
statistics in ``experiment_cfg/metadata.json``; cameras, the order of state and action and the relative keys in
``experiment_cfg/conf.yaml``. Where the tag's canvas layout and prompt are known (``runtime/release.py``) a contract is
compared with all that training fixed, else by its keys, their order, their widths and their relative rule.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreamzero_policy.model.config import ModelConfig
from dreamzero_policy.model.release_config import METADATA_FILE, Release
from dreamzero_policy.runtime.contract import ContractError, ModelSection
from dreamzero_policy.runtime.release import release_contract, release_differences, served


@dataclass(frozen=True)
class ReleasedEmbodiment:
    """One tag of a release. ``state`` and ``action`` give the width of every key, in the order of the vector."""

    tag: str
    cameras: tuple[str, ...]
    fps: float | None
    state: dict[str, int]
    action: dict[str, int]
    relative: frozenset[str]
    statistics: Mapping[str, Any]
    model: ModelSection | None

    def misfits(self, model: ModelSection) -> list[str]:
        """One line for everything in which a contract differs, `contract | release`."""
        if self.model is not None:
            return release_differences(model, self.model)
        lines = []
        for kind in ("state", "action"):
            ours = {group.key: group.width for group in getattr(model, kind)}
            theirs = getattr(self, kind)
            if list(ours.items()) != list(theirs.items()):
                lines.append(f"{kind}: {ours} | {theirs}")
        ours = {group.key for group in model.action if group.relative}
        theirs = self.relative & set(self.action)
        if ours != theirs:
            lines.append(f"relative: {sorted(ours)} | {sorted(theirs)}")
        if len(model.cameras) != len(self.cameras):
            lines.append(f"cameras: {list(model.cameras)} | {list(self.cameras)}")
        return lines


def released_embodiments(release: Release) -> dict[str, ReleasedEmbodiment]:
    """The embodiments of a release by tag.

    Raises :class:`ContractError` when a table of its metadata is malformed.
    """
    return {tag: _embodiment(tag, entry, release.conf, release.metadata) for tag, entry in release.metadata.items()}


def _embodiment(
    tag: str, entry: Mapping[str, Any], conf: Mapping[str, Any], metadata: Mapping[str, Any]
) -> ReleasedEmbodiment:
    order = _orders(tag, conf)
    try:
        modalities = entry["modalities"]
        widths = {
            kind: {key: len(t["q01"]) for key, t in entry["statistics"][kind].items()} for kind in ("state", "action")
        }
        cameras = order.get("video") or tuple(modalities["video"])
        rates = {camera.get("fps") for camera in modalities["video"].values()}
    except (KeyError, TypeError, AttributeError) as error:
        raise ContractError(f"{METADATA_FILE}: {tag} is malformed: {error!r}") from error
    ordered = {}
    for kind, table in widths.items():
        keys = order.get(kind) or tuple(table)
        if absent := [key for key in keys if key not in table]:
            raise ContractError(f"{METADATA_FILE}: {tag} has no statistics of {kind} {absent}; it has {sorted(table)}")
        ordered[kind] = {key: table[key] for key in keys}
    relative = conf.get("relative_action_keys") or () if conf.get("relative_action") else ()
    return ReleasedEmbodiment(
        tag=tag,
        cameras=cameras,
        fps=next(iter(rates)) if len(rates) == 1 else None,
        state=ordered["state"],
        action=ordered["action"],
        relative=frozenset(relative),
        statistics=entry["statistics"],
        model=release_contract(conf, metadata, tag) if tag in served(conf, metadata) else None,
    )


def _orders(tag: str, conf: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Order of cameras, state and action keys: that of the concatenation, else that of the modalities."""
    steps = (conf.get("transforms") or {}).get(tag, {}).get("transforms", [])
    for step in steps:
        if str(step.get("_target_", "")).endswith("ConcatTransform"):
            return {kind: _plain(kind, step.get(f"{kind}_concat_order")) for kind in ("video", "state", "action")}
    modalities = (conf.get("modality_configs") or {}).get(tag, {})
    return {kind: _plain(kind, entry.get("modality_keys")) for kind, entry in modalities.items()}


def _plain(kind: str, keys: list[str] | None) -> tuple[str, ...]:
    return tuple(key.removeprefix(f"{kind}.") for key in keys or ())


def geometry_misfits(config: ModelConfig, model: ModelSection) -> list[str]:
    """One line for every size in which a contract and a model differ, `contract | model`."""
    geometry, chunk = config.geometry, model.chunk
    pairs = {
        "canvas [height, width] px": (model.canvas_size_px, (geometry.canvas_height, geometry.canvas_width)),
        "actions of a chunk": (chunk.actions, geometry.actions_per_chunk),
        "latent frames of a chunk": (chunk.latent_frames, geometry.frames_per_chunk),
        "frames of a chunk": (chunk.frames, config.raw_frames_per_chunk),
        "chunks of a window": (chunk.chunks_per_window, geometry.chunks_per_window),
    }
    lines = [f"{name}: {ours} | {theirs}" for name, (ours, theirs) in pairs.items() if ours != theirs]
    widths = {"state": (len(model.state_joints), geometry.max_state_dim)}
    widths["action"] = (model.action_width, geometry.max_action_dim)
    return lines + [f"{name} is {w} wide, the model takes {most}" for name, (w, most) in widths.items() if w > most]


def statistics_document(path: Path) -> dict[str, Any]:
    """A checkpoint's ``statistics.json`` as plain data. Raises :class:`ContractError`."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ContractError(f"statistics {path} cannot be read: {error}") from error
