"""What a checkpoint is, as plain data, from its configuration files and headers alone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from dreamzero_policy.inference.embodiments import geometry_misfits, released_embodiments, statistics_document
from dreamzero_policy.model.config import ModelConfig
from dreamzero_policy.model.source import Component, Source, Stored, open_source
from dreamzero_policy.model.weights import DTYPES
from dreamzero_policy.runtime.contract import (
    Contract,
    ModelSection,
    differing_fields,
    load_contract,
    load_model_section,
    model_hash,
)
from dreamzero_policy.runtime.embodiment import statistics_hash
from dreamzero_policy.runtime.trained import CONTRACT_FILE, STATISTICS_FILE


def describe(path: str | Path, *, base: str | Path | None = None, contract: str | Path | None = None) -> dict[str, Any]:
    """Layout, variant, components, geometry, embodiments, statistics, contract fit and what does not fit.

    Args:
        path: a checkpoint in any layout.
        base: what its adapters were trained on.
        contract: a contract file to compare with what the checkpoint was trained for.

    Raises:
        CheckpointError: it is no checkpoint, or a file of it is broken.
        ContractError: a contract or statistics file is broken.
    """
    source = open_source(path, base)
    components = {
        name: _component(component, source.spare if name == "image_encoder" else {})
        for name, component in source.components.items()
    }
    missing = [f"{c.name}: {key}" for c in source.components.values() for key in c.missing]
    misfits = [line for c in source.components.values() for line in c.misfits]
    return {
        "path": str(path),
        "layout": source.layout,
        "variant": source.config.variant,
        "complete": not (missing or source.unexpected or misfits),
        "parameters": sum(c["parameters"] for c in components.values()),
        "bytes": sum(c["bytes"] for c in components.values()),
        "components": components,
        "geometry": _geometry(source.config),
        "sampler": source.config.to_dict()["sampler"],
        "tokenizer": _tokenizer(source),
        "adapters": _adapters(source),
        "embodiments": _embodiments(source),
        "contract": _contract_fit(source, None if contract is None else load_contract(contract)),
        "missing": missing,
        "unexpected": source.unexpected,
        "misfits": misfits,
        "known_unused": source.unused,
        "notes": source.notes,
    }


def _component(component: Component, spare: dict[str, Stored]) -> dict[str, Any]:
    """What is stored of a component, counted as it lies in the files; ``spare`` has no room in our networks."""
    stored = [*component.stored.values(), *spare.values()]
    infos = {(id(s.weights), s.key): s.weights.infos[s.key] for s in stored}
    dtypes = Counter(str(DTYPES[info.dtype]).removeprefix("torch.") for info in infos.values())
    return {
        "tensors": len(infos),
        "parameters": sum(info.numel for info in infos.values()),
        "bytes": sum(info.nbytes for info in infos.values()),
        "dtypes": dict(dtypes),
    }


def _geometry(config: ModelConfig) -> dict[str, Any]:
    geometry = config.geometry
    return {
        "canvas_px": [geometry.canvas_height, geometry.canvas_width],
        "latent": [config.autoencoder.latent_channels, config.latent_height, config.latent_width],
        "tokens_per_frame": config.tokens_per_frame,
        "frames_per_chunk": geometry.frames_per_chunk,
        "raw_frames_per_chunk": config.raw_frames_per_chunk,
        "actions_per_chunk": geometry.actions_per_chunk,
        "chunks_per_window": geometry.chunks_per_window,
        "latent_frames_per_window": config.latent_frames_per_window,
        "max_action_dim": geometry.max_action_dim,
        "max_state_dim": geometry.max_state_dim,
        "image_condition": config.transformer.image_condition,
        "text_length": config.text_encoder.text_length,
    }


def _tokenizer(source: Source) -> dict[str, Any]:
    kind = source.config.text_encoder.tokenizer
    return {"kind": kind, "included": kind == "bytes" or (source.path / "tokenizer").is_dir()}


def _adapters(source: Source) -> dict[str, Any]:
    known = source.release.adapters if source.release and source.adapted else None
    return {
        "count": source.adapted,
        "scale": known.scale if known else None,
        "needs_base": source.needs_base,
        "trained_on": known.base if known else None,
    }


def _embodiments(source: Source) -> dict[str, Any]:
    """By tag: cameras, and for every key of state and action its width, rule and statistics."""
    found = {}
    if source.release is not None:
        for tag, e in released_embodiments(source.release).items():
            action = {k: {"width": w, "relative": k in e.relative} for k, w in e.action.items()}
            state = {key: {"width": width} for key, width in e.state.items()}
            found[tag] = {"cameras": list(e.cameras), "fps": e.fps, "state": state, "action": action}
            found[tag]["statistics"] = {kind: dict(e.statistics[kind]) for kind in ("state", "action")}
    if (source.path / CONTRACT_FILE).is_file():
        model = load_model_section(source.path / CONTRACT_FILE)
        tables = {}
        if (source.path / STATISTICS_FILE).is_file():
            document = statistics_document(source.path / STATISTICS_FILE)
            tables = {kind: document.get(kind, {}) for kind in ("state", "action")}
        found[model.embodiment] = {
            "cameras": list(model.cameras),
            "fps": None,
            "state": {g.key: {"width": g.width} for g in model.state},
            "action": {g.key: {"width": g.width, "relative": g.relative} for g in model.action},
            "statistics": tables,
        }
    return found


def _contract_fit(source: Source, given: Contract | None) -> dict[str, Any]:
    """What the checkpoint was trained for, whether its own files agree, and whether a given contract does."""
    path, differences = source.path / CONTRACT_FILE, []
    own = load_model_section(path) if path.is_file() else None
    if own is not None:
        differences += geometry_misfits(source.config, own) + _statistics_misfits(source.path, own)
    fit: dict[str, Any] = {
        "embodiment": own.embodiment if own else None,
        "hash": model_hash(own) if own else None,
        "fits": not differences if own else None,
        "differences": differences,
    }
    if given is not None:
        fit["given"] = _given_fit(source, own, given)
    return fit


def _statistics_misfits(path: Path, own: ModelSection) -> list[str]:
    if not (path / STATISTICS_FILE).is_file():
        return [f"{STATISTICS_FILE} is absent"]
    document = statistics_document(path / STATISTICS_FILE)
    lines = []
    if document.get("contract_hash") != model_hash(own):
        lines.append(f"{STATISTICS_FILE} belongs to contract {document.get('contract_hash')}, not {model_hash(own)}")
    if document.get("hash") != statistics_hash(document):
        lines.append(f"{STATISTICS_FILE} was changed after it was written")
    return lines


def _given_fit(source: Source, own: ModelSection | None, given: Contract) -> dict[str, Any]:
    differences, tag = geometry_misfits(source.config, given.model), None
    if own is not None:
        differences += differing_fields(given.model, own)
    elif source.release is not None:
        by_tag = {tag: e.misfits(given.model) for tag, e in released_embodiments(source.release).items()}
        tag = next((tag for tag, lines in by_tag.items() if not lines), None)
        if tag is None:
            differences += [f"{tag}: {line}" for tag, lines in by_tag.items() for line in lines]
    return {"embodiment": given.model.embodiment, "hash": given.hash, "tag": tag, "fits": not differences} | {
        "differences": differences
    }
