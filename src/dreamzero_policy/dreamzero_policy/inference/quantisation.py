"""Weights of the blocks in eight bits, through torchao (optional: ``pip install torchao``).

Only the large matrices are touched: projections of both attentions and the feed-forward. Embedders, head and the
control path stay as they are; they are small, and their rounding would reach every token.
"""

from __future__ import annotations

from torch import nn

from dreamzero_policy.model.transformer import WorldActionTransformer

# Our name and torchao's configuration. Weight-only kinds save memory and its bandwidth; int8_dynamic also multiplies in
# int8, with a scale for every token found on the way.
KINDS = {
    "int8": "Int8WeightOnlyConfig",
    "int8_dynamic": "Int8DynamicActivationInt8WeightConfig",
    "float8": "Float8WeightOnlyConfig",
}


def quantise(transformer: WorldActionTransformer, kind: str) -> None:
    """Replace the weights of the blocks by quantised ones, in place. There is no way back.

    Raises ValueError for another kind, RuntimeError where torchao is not installed.
    """
    if kind not in KINDS:
        raise ValueError(f"quantisation is {kind!r}, expected one of {list(KINDS)}")
    try:
        from torchao import quantization
    except ModuleNotFoundError as error:
        raise RuntimeError(f"quantisation {kind!r} needs torchao: pip install torchao") from error
    quantization.quantize_(transformer.blocks, getattr(quantization, KINDS[kind])(), filter_fn=is_quantised)


def is_quantised(module: nn.Module, name: str) -> bool:
    """Whether a module of the blocks, by its name there, gets quantised weights."""
    return isinstance(module, nn.Linear) and not set(name.split(".")).isdisjoint({"attn1", "attn2", "ffn"})
