"""Actions and state on their way into the transformer and out of it: the released weights' three small modules.

Their layers keep weights as [1, in, out] (:class:`EmbodimentLinear`): a row per embodiment, and there is one.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamzero_policy.model.blocks import Times


class EmbodimentLinear(nn.Module):
    """y = x W + b with W [1, in, out] and b [1, out], the layout in which the released weights keep these layers."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.empty(1, in_features, out_features))
        self.b = nn.Parameter(torch.empty(1, out_features))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weights that keep the size of what passes through, at any width.

        With one fixed spread for all widths, the noise of an action would reach the first block of a narrow network a
        thousand times smaller than its time does, and learning would begin by undoing that.
        """
        nn.init.normal_(self.W, std=self.W.shape[1] ** -0.5)
        nn.init.zeros_(self.b)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.W[0].T, self.b[0])


class ControlProjector(nn.Module):
    """Two layers with a ReLU: state to token, and token to action."""

    def __init__(self, in_features: int, hidden: int, out_features: int) -> None:
        super().__init__()
        self.layer1 = EmbodimentLinear(in_features, hidden)
        self.layer2 = EmbodimentLinear(hidden, out_features)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer2(F.relu(self.layer1(x)))


class ActionEncoder(nn.Module):
    """Noisy action [B, A, action_dim] and its time to a token; the time enters as a sinusoid as wide as the token."""

    def __init__(self, action_dim: int, dim: int) -> None:
        super().__init__()
        self.W1 = EmbodimentLinear(action_dim, dim)
        self.W2 = EmbodimentLinear(2 * dim, dim)
        self.W3 = EmbodimentLinear(dim, dim)

    def forward(self, action: Tensor, times: Times) -> Tensor:
        x = self.W1(action)
        angle = times.values[..., None].float() * _frequencies(x.shape[-1] // 2, x.device)
        sinusoid = times.spread(torch.cat([angle.sin(), angle.cos()], dim=-1)).type_as(x)
        return self.W3(F.silu(self.W2(torch.cat([x, sinusoid.expand_as(x)], dim=-1))))


@lru_cache(maxsize=16)
@torch.inference_mode(False)
def _frequencies(count: int, device: torch.device) -> Tensor:
    """[count] float32, from 1 down to almost 1 / 10000."""
    return torch.exp(torch.arange(count, dtype=torch.float32, device=device) * (-math.log(10000.0) / count))
