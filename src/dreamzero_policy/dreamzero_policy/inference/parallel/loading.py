"""A checkpoint on several processes: rank 0 gets a policy like any other, the others get their parts of a transformer.

Every process opens the files itself and reads what it keeps: of the transformer its own part, and of the encoders and
the autoencoder nothing unless it leads.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from dreamzero_policy.inference.loading import DTYPES, Policy, fastest_dtype, load_policy
from dreamzero_policy.inference.parallel.crew import Crew
from dreamzero_policy.inference.parallel.guidance import split_guidance
from dreamzero_policy.inference.parallel.lockstep import Leader, lead
from dreamzero_policy.inference.parallel.tensor_split import cut_axis, split_layers
from dreamzero_policy.model import checkpoint as checkpoints
from dreamzero_policy.model.source import config_of, open_source
from dreamzero_policy.model.transformer import WorldActionTransformer


@dataclass(frozen=True)
class LeadingPolicy(Policy):
    """A policy whose transformer is on several processes. ``weight_bytes`` are this process's own."""

    leader: Leader
    transformer_parameters: int  # on all of them together

    @property
    def parameters(self) -> dict[str, int]:
        return super().parameters | {"transformer": self.transformer_parameters}

    def end(self) -> None:
        """Let the others go; nothing may be asked behind this."""
        self.leader.end()


def load_leading(
    crew: Crew,
    checkpoint: str | Path,
    *,
    dtype: str = "float32",
    threads: int | None = None,
    tokenizer_path: str | Path | None = None,
    base: str | Path | None = None,
) -> LeadingPolicy:
    """Rank 0's policy. Options and errors as those of :func:`~..loading.load_policy`.

    Raises :class:`~..model.config.ConfigError` for a model that cannot be divided so.
    """
    dtype = _begin(crew, checkpoint, dtype)
    policy = load_policy(
        checkpoint,
        device=str(crew.device),
        dtype=dtype,
        threads=threads,
        tokenizer_path=tokenizer_path,
        base=base,
        part=crew.part,
    )
    whole = sum(
        parameter.numel() * (1 if cut_axis(name) is None else crew.shape.tensor)
        for name, parameter in policy.transformer.named_parameters()
    )
    divide(policy.transformer, crew)
    crew.meet()
    return LeadingPolicy(**vars(policy), leader=lead(policy.transformer, crew), transformer_parameters=whole)


def load_following(
    crew: Crew,
    checkpoint: str | Path,
    *,
    dtype: str = "float32",
    threads: int | None = None,
    base: str | Path | None = None,
) -> WorldActionTransformer:
    """Another rank's part of the transformer, ready to follow. Errors as those of :func:`load_leading`."""
    dtype = _begin(crew, checkpoint, dtype)
    if threads is not None:
        torch.set_num_threads(threads)
    with checkpoints.collection_paused():
        source = open_source(checkpoint, base)
        source.require_complete()
        transformer = checkpoints.load_component(source.components["transformer"], DTYPES[dtype], crew.part)
    transformer.to(crew.device).eval().requires_grad_(False)
    divide(transformer, crew)
    crew.meet()
    return transformer


def divide(transformer: WorldActionTransformer, crew: Crew) -> None:
    """Make a transformer whose tensors are this process's parts work with the others, in place."""
    if crew.shape.tensor > 1:
        split_layers(transformer, crew.shares)
    if crew.shape.cfg > 1:
        split_guidance(transformer, crew.branches)


def _begin(crew: Crew, checkpoint: str | Path, dtype: str) -> str:
    """Refuse what cannot be divided, and find the dtype that all processes take."""
    crew.use_device()
    crew.shape.require_fit(config_of(Path(checkpoint)))
    return crew.agreed(lambda: fastest_dtype(str(crew.device)) if dtype == "auto" else dtype)
