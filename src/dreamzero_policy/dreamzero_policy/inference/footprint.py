"""How much memory a session's past takes, by looking at every tensor it holds."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch

from dreamzero_policy.inference.loading import Policy


def tensor_bytes(value: Any) -> int:
    """Bytes of all tensors and arrays inside an object, each memory counted once. Weights of a policy do not count."""
    found: dict[int, int] = {}
    _visit(value, found, set())
    return sum(found.values())


def _visit(value: Any, found: dict[int, int], seen: set[int]) -> None:
    if id(value) in seen or isinstance(value, Policy | str | bytes):
        return
    seen.add(id(value))
    if isinstance(value, torch.Tensor):
        storage = value.untyped_storage()
        found[storage.data_ptr()] = storage.nbytes()
    elif isinstance(value, np.ndarray):
        found[value.__array_interface__["data"][0]] = value.nbytes
    elif isinstance(value, Mapping):
        for part in value.values():
            _visit(part, found, seen)
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            _visit(getattr(value, field.name), found, seen)
    elif isinstance(value, Iterable):
        for part in value:
            _visit(part, found, seen)
    elif hasattr(value, "__dict__"):
        _visit(vars(value), found, seen)
