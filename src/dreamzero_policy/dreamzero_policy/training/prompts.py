"""Prompts of a batch as tokens: every different one once, without the padding that all of them have in common."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dreamzero_policy.model.conditioning import Tokenizer


@dataclass(frozen=True)
class Prompts:
    """P different prompts of B.

    ids, mask: [P, L].
    which: [B] which of them each prompt of the batch is.
    """

    ids: Tensor
    mask: Tensor
    which: Tensor

    @classmethod
    def of(cls, prompts: Sequence[str], tokenizer: Tokenizer, device: torch.device) -> "Prompts":
        different = list(dict.fromkeys(prompts))
        ids, mask = tokenizer(different)
        longest = int(mask.sum(1).max())
        which = torch.tensor([different.index(prompt) for prompt in prompts])
        return cls(ids[:, :longest].to(device), mask[:, :longest].to(device), which.to(device))
