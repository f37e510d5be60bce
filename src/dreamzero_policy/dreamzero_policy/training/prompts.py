"""Prompts of a batch as tokens: every different one once, without the padding that all of them have in common."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dreamzero_policy.model.conditioning import Tokenizer


@dataclass(frozen=True)
class Prompts:
    """P different prompts among the B of a batch, L tokens long at most.

    ids: [P, L] of the tokenizer's vocabulary.
    mask: [P, L] where a prompt has a token.
    which: [B] which of the P each prompt of the batch is.
    """

    ids: Tensor
    mask: Tensor
    which: Tensor

    @classmethod
    def of(cls, prompts: Sequence[str], tokenizer: Tokenizer, device: torch.device) -> "Prompts":
        """On `device`, the different ones in the order in which they come first."""
        different = list(dict.fromkeys(prompts))
        ids, mask = tokenizer(different)
        longest = int(mask.sum(1).max())
        which = torch.tensor([different.index(prompt) for prompt in prompts])
        return cls(ids[:, :longest].to(device), mask[:, :longest].to(device), which.to(device))
