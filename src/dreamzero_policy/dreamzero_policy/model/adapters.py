"""Low-rank adapters in a checkpoint: finding them among its names, and merging them into the weights they belong to.

A training run with adapters saves, for an adapted weight W [out, in], the factors A [r, in] and B [out, r]; the trained
weight is W + scale B A. The released trainer wraps names in several ways (``base_model.model.``, ``.base_layer.``,
``.modules_to_save.<name>.``, ``.lora_A.<name>.weight``); all of them lead back to the plain name here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from dreamzero_policy.model.weights import CheckpointError, Weights

_FACTOR = re.compile(r"(.*)\.lora_([AB])(?:\.[^.]+)?\.weight")
_WRAPPERS = re.compile(r"base_model\.model\.|(?<=\.)base_layer\.|(?<=\.)modules_to_save\.[^.]+\.")


@dataclass(frozen=True)
class Adapter:
    """The two factors of one weight: where they are, their names there, and the scale of their product."""

    weights: Weights
    a: str
    b: str
    scale: float

    def merge(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        """``weight`` [out, in] plus the product, summed in float32, in the given dtype."""
        a, b = self.weights[self.a].float(), self.weights[self.b].float()
        if (b.shape[0], a.shape[1]) != tuple(weight.shape) or b.shape[1] != a.shape[0]:
            raise CheckpointError(
                f"adapter {self.a} {list(a.shape)} and {self.b} {list(b.shape)} do not fit "
                f"a weight {list(weight.shape)}"
            )
        return torch.addmm(weight.float(), b, a, alpha=self.scale).to(dtype)


def plain_name(key: str) -> str:
    """A name without what the adapters' wrapping put into it."""
    return _WRAPPERS.sub("", key)


def find_adapters(weights: Weights, scale: float) -> dict[str, Adapter]:
    """Plain name of each adapted weight to its adapter. Raises :class:`CheckpointError` when a factor is alone."""
    factors: dict[str, dict[str, str]] = {}
    for key in weights:
        if match := _FACTOR.fullmatch(key):
            factors.setdefault(plain_name(match[1]) + ".weight", {})[match[2]] = key
    for target, pair in factors.items():
        if len(pair) != 2:
            raise CheckpointError(
                f"{next(iter(pair.values()))} has no counterpart; the adapter of {target} is half there"
            )
    return {target: Adapter(weights, pair["A"], pair["B"], scale) for target, pair in factors.items()}


def is_factor(key: str) -> bool:
    """Whether a name is that of an adapter's factor."""
    return _FACTOR.fullmatch(key) is not None
