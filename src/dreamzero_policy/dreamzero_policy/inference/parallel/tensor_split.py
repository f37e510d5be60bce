"""A layer of the transformer on several processes: each has some of the heads and some of the feed-forward's inside.

What widens (queries, keys, values, the way into the feed-forward) is cut by outputs, what narrows again (the way out of
either) by inputs, whose products are summed over the processes. Between the two nobody needs the others, with one
exception: queries and keys are normed over all heads together, so each norm sums one number a token. The residual
stream, embedders and heads of the network are whole in every process. Decisions:

* cut tensors are plain ones, so that the cache, attention and the blocks' own code are those of one process. torch's
  `parallelize_module` would make them DTensors, and has no norm over what it cuts;
* the cache has the heads that are here, which is where the memory of a long past goes;
* the bias of a sum is added once, behind it.

Of the 16.5 billion weights of the 14B's transformer 16.1 are cut.
"""

from __future__ import annotations

import torch
import torch.distributed as distributed
import torch.nn.functional as F
from torch import Tensor, nn

from dreamzero_policy.model.transformer import WorldActionTransformer

# Of a block's parts, those that are cut along their outputs and along their inputs.
BY_OUTPUT = ("to_q", "to_k", "to_v", "add_k_proj", "add_v_proj", "norm_q", "norm_k", "norm_added_k", "net.0.proj")
BY_INPUT = ("to_out.0", "net.2")


def part_of(key: str, tensor: Tensor, rank: int, size: int) -> Tensor:
    """What of a tensor of the transformer belongs to one of several processes; a view where that is contiguous."""
    axis = cut_axis(key)
    if axis is None or size == 1:
        return tensor
    return tensor.chunk(size, axis)[rank].contiguous()


def cut_axis(key: str) -> int | None:
    """The axis along which a tensor of the transformer is cut, None for what every process has whole."""
    match key.split(".", 3):  # blocks.7.attn1.to_q.weight
        case ["blocks", _, "attn1" | "attn2" | "ffn", rest]:
            part, _, kind = rest.rpartition(".")
            if part in BY_OUTPUT:
                return 0
            return 1 if part in BY_INPUT and kind == "weight" else None
    return None


def split_layers(transformer: WorldActionTransformer, group: distributed.ProcessGroup) -> None:
    """Make a transformer whose tensors are parts already (:func:`part_of`) work with the others, in place.

    All processes of the group must make the same calls in the same order.
    """
    size = distributed.get_world_size(group)
    for block in transformer.blocks:
        for attention in (block.attn1, block.attn2):
            attention.heads //= size
            attention.to_out[0] = SummedLinear(attention.to_out[0], group)
            for name in ("norm_q", "norm_k", "norm_added_k"):
                if getattr(attention, name, None) is not None:
                    setattr(attention, name, NormOverAll(getattr(attention, name), group))
        block.ffn.net[2] = SummedLinear(block.ffn.net[2], group)


class SummedLinear(nn.Module):
    """A linear layer whose inputs are on several processes."""

    def __init__(self, own: nn.Linear, group: distributed.ProcessGroup) -> None:
        super().__init__()
        self.weight, self.bias, self._group = own.weight, own.bias, group  # [out, in / size], [out]

    def forward(self, x: Tensor) -> Tensor:
        """[…, in / size] to [..., out], the same in all processes."""
        out = F.linear(x, self.weight)
        distributed.all_reduce(out, group=self._group)
        return out + self.bias


class NormOverAll(nn.Module):
    """RMS norm over a width that is on several processes."""

    def __init__(self, own: nn.RMSNorm, group: distributed.ProcessGroup) -> None:
        super().__init__()
        self.weight, self.eps, self._group = own.weight, own.eps, group  # [width / size]
        self._width = len(own.weight) * distributed.get_world_size(group)

    def forward(self, x: Tensor) -> Tensor:
        """[…, width / size] in and out."""
        squares = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32).square()
        distributed.all_reduce(squares, group=self._group)
        return (x.float() * torch.rsqrt(squares / self._width + self.eps) * self.weight).type_as(x)
