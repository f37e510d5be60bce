"""Another implementation to be timed beside ours: any torch module with the verbs of our transformer."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dreamzero_policy.model.config import ModelConfig

VERBS = ("context", "empty_cache", "observe", "denoise")


def load_module(where: str, config: ModelConfig, dtype: torch.dtype, weights: dict[str, torch.Tensor]) -> nn.Module:
    """The module that ``path/to/file.py:name`` or ``package.module:name`` means, cast and ready for inference.

    ``name`` is the module itself, or something to call for it: with the :class:`~..model.config.ModelConfig` if it
    takes an argument, else without. Where its weights have our names and shapes it gets our values, so that results can
    be compared; otherwise it keeps its own.

    Raises ValueError when there is no such thing, or what is there is no module with the verbs.
    """
    source, _, name = where.rpartition(":")
    if not source:
        raise ValueError(f"{where!r} names no module; expected path/to/file.py:name or package.module:name")
    found = getattr(_import(source), name, None)
    if found is None:
        raise ValueError(f"{source} has no {name!r}")
    module = found if isinstance(found, nn.Module) else _call(found, config, where)
    missing = [verb for verb in VERBS if not callable(getattr(module, verb, None))]
    if not isinstance(module, nn.Module) or missing:
        raise ValueError(f"{where} gives a {type(module).__name__} without {', '.join(missing) or 'being a module'}")
    own = module.state_dict()
    if {k: t.shape for k, t in own.items()} == {k: t.shape for k, t in weights.items()}:
        module.load_state_dict(weights)
    return module.to(dtype).eval().requires_grad_(False)


def _call(found: Any, config: ModelConfig, where: str) -> Any:
    if not callable(found):
        raise ValueError(f"{where} is a {type(found).__name__}, neither a torch module nor something to call for one")
    return found(config) if inspect.signature(found).parameters else found()


def _import(source: str) -> Any:
    if not source.endswith(".py"):
        try:
            return importlib.import_module(source)
        except ModuleNotFoundError as error:
            raise ValueError(f"there is no Python module {source!r}: {error}") from error
    path = Path(source)
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    spec = importlib.util.spec_from_file_location(f"against_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
