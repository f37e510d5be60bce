"""Which process does what: the shape of those that hold one model, and how they meet.

Ranks are numbered by branch of guidance, then by share: with two branches and two shares, ranks 0 and 1 have the shares
of the prompt's branch, 2 and 3 those of the negative prompt's. Sums over shares are many and large, so they are between
neighbours; the branches exchange their velocities once a step.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as distributed
from torch import Tensor

from dreamzero_policy.inference.parallel.guidance import BRANCHES
from dreamzero_policy.inference.parallel.tensor_split import part_of
from dreamzero_policy.inference.parallel.watch import PATIENCE_S, Watch, end_process
from dreamzero_policy.model.config import ConfigError, ModelConfig

T = TypeVar("T")

STUCK_S = 120.0  # what takes longer between processes that work never ends
IDLE = timedelta(days=3650)  # a follower waits for as long as nobody asks anything, and for whoever loads longest


class StartError(ValueError):
    """Processes that were not started as the options say; the text says what to do."""


@dataclass(frozen=True)
class Shape:
    """``cfg``: branches of guidance on processes of their own, 1 (both on one) or 2. ``tensor``: shares of a layer."""

    cfg: int = 1
    tensor: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.cfg <= BRANCHES:
            raise StartError(f"guidance has {BRANCHES} branches, they cannot be on {self.cfg} processes")
        if self.tensor < 1:
            raise StartError(f"a layer cannot be on {self.tensor} processes")

    @property
    def size(self) -> int:
        return self.cfg * self.tensor

    def require_started(self) -> None:
        """Raise :class:`StartError` unless as many processes were started as this takes."""
        started = int(os.environ.get("WORLD_SIZE", 1))
        if started != self.size:
            raise StartError(
                f"{self.cfg} for guidance x {self.tensor} for each layer are {self.size} processes, {started} "
                f"{'was' if started == 1 else 'were'} started; start with torchrun --nproc-per-node {self.size}"
            )

    def require_fit(self, config: ModelConfig) -> None:
        """Raise :class:`ConfigError` for a model that cannot be divided so."""
        for name in ("num_attention_heads", "ffn_dim"):
            if (count := getattr(config.transformer, name)) % self.tensor:
                raise ConfigError(f"transformer.{name} {count} cannot be divided among {self.tensor} processes")
        if self.cfg > 1 and config.sampler.cfg_scale == 1.0:
            raise ConfigError(
                f"sampler.cfg_scale is 1: the model has no guidance whose branches could be on {self.cfg} processes"
            )


@dataclass(frozen=True)
class Crew:
    """This process among those that hold the model together.

    ``meeting`` is for the beginning, ``control`` carries what rank 0 says then, both between hosts; ``everyone``
    tensors from rank 0 to all; ``shares`` sums among the shares of a branch; ``branches`` velocities between those.
    """

    rank: int
    shape: Shape
    device: torch.device
    meeting: distributed.ProcessGroup
    control: distributed.ProcessGroup
    everyone: distributed.ProcessGroup
    shares: distributed.ProcessGroup
    branches: distributed.ProcessGroup
    watch: Watch

    @property
    def leads(self) -> bool:
        """Whether the others follow this process."""
        return self.rank == 0

    def use_device(self) -> None:
        """Make this process's GPU the one of the current thread; CUDA keeps that by thread."""
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)

    def part(self, key: str, tensor: Tensor) -> Tensor:
        """What of a tensor of the transformer belongs to this process."""
        return part_of(key, tensor, self.rank % self.shape.tensor, self.shape.tensor)

    def agreed(self, value: Callable[[], T]) -> T:
        """What rank 0 finds; only that process asks ``value``. All processes call this together, before they work."""
        return _from_first(value() if self.leads else None, self.meeting)

    def meet(self) -> None:
        """Wait until all are here, however long they load."""
        distributed.barrier(group=self.meeting)

    def say(self, command: Any) -> None:
        """What all do next. Rank 0's."""
        _from_first(command, self.control)

    def hear(self) -> Any:
        """What rank 0 says next, whenever that is. The others'."""
        return _from_first(None, self.control)

    def leave(self) -> None:
        """Part from the others, once all of them are at the end."""
        self.watch.end()
        distributed.destroy_process_group()


def join(
    shape: Shape,
    device: str,
    *,
    patience_s: float = PATIENCE_S,
    stuck_s: float = STUCK_S,
    lost: Callable[[str], None] = end_process,
) -> Crew:
    """Meet the other processes, which torchrun started. On ``cuda`` each takes the GPU of its local rank.

    ``patience_s``: for a ping. ``stuck_s``: for an exchange. ``lost`` is called, on any thread, with the reason why
    this process cannot go on; it does not return.

    Raises :class:`StartError` when others were started than the shape takes, or for a device that cannot be.
    """
    shape.require_started()
    own = own_device(device)
    backend = "gloo"
    if own.type == "cuda":
        torch.cuda.set_device(own)
        backend = "cpu:gloo,cuda:nccl"
    stuck = timedelta(seconds=stuck_s)
    distributed.init_process_group(backend, timeout=stuck)
    rank, everybody = distributed.get_rank(), list(range(shape.size))

    def group(ranks: list[int], backend: str, timeout: timedelta) -> distributed.ProcessGroup:
        return distributed.new_group(ranks, timeout=timeout, backend=backend)

    # every process makes every group, in this order
    meeting = group(everybody, "gloo", IDLE)
    control = group(everybody, "gloo", stuck if rank == 0 else IDLE)  # nobody waits to be heard, all wait to hear
    pairs = [group([0, other], "gloo", timedelta(seconds=patience_s)) for other in everybody[1:]]
    everyone = group(everybody, backend, stuck)
    rows = [everybody[i : i + shape.tensor] for i in range(0, shape.size, shape.tensor)]
    shares = [group(row, backend, stuck) for row in rows]
    branches = [group([row[i] for row in rows], backend, stuck) for i in range(shape.tensor)]
    watch = Watch(rank, pairs, patience_s, lost)
    return Crew(
        rank,
        shape,
        own,
        meeting,
        control,
        everyone,
        shares[rank // shape.tensor],
        branches[rank % shape.tensor],
        watch,
    )


def _from_first(value: Any, group: distributed.ProcessGroup) -> Any:
    """Rank 0's value, in all processes."""
    said = [value]
    distributed.broadcast_object_list(said, src=0, group=group, device=torch.device("cpu"))
    return said[0]


def own_device(device: str) -> torch.device:
    """The device of this process: on ``cuda`` the GPU of its local rank. Raises :class:`StartError`."""
    asked = torch.device(device)
    if asked.index is not None:
        raise StartError(f"device {device} is one for all processes; with {asked.type} each takes its own")
    if asked.type != "cuda":
        return asked
    local, count = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
    if local >= count:
        raise StartError(f"there are {count} GPUs here, none is left for the process of local rank {local}")
    return torch.device("cuda", local)
