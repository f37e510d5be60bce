"""Several processes that train one model: who this one is, and what they add up.

Started by ``torchrun`` (or by ``dreamzero train --processes N``, which does that). Every process draws the same batch
and the same noise and takes its share of the rows, so that any number of processes gives the weights of one, up to
rounding. Two ways: each holds all weights and gradients are summed (`replicated`), or the weights are spread over the
processes by torch's FSDP2 (`sharded`), which is what a model needs that no single device can hold.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor


@dataclass(frozen=True)
class Ranks:
    """This process among its peers. Alone by default."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes files and reports."""
        return self.rank == 0

    def rows(self, count: int) -> tuple[list[int], float]:
        """This process's rows of a batch, and their share of it.

        A process without rows takes the first with a share of 0: it must take part in what all do together.
        """
        mine = list(range(self.rank, count, self.size))
        return (mine, len(mine) / count) if mine else ([0], 0.0)

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their sums over all processes, in one message."""
        if self.size == 1:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(flat)
        parts = flat.split([tensor.numel() for tensor in tensors])
        torch._foreach_copy_(list(tensors), [part.view_as(t) for part, t in zip(parts, tensors, strict=True)])

    def wait(self) -> None:
        """Until all are here."""
        if self.size > 1:
            dist.barrier()


def join() -> Ranks:
    """Meet the peers that torchrun started; alone where it did not."""
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    if "WORLD_SIZE" not in os.environ or int(os.environ["WORLD_SIZE"]) == 1:
        return Ranks(device=device)
    if not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo")
    return Ranks(dist.get_rank(), dist.get_world_size(), device)


def leave() -> None:
    """Say good-bye to the peers."""
    if dist.is_initialized():
        dist.destroy_process_group()


def whole(tensor: Tensor) -> Tensor:
    """A tensor with all its shards. Every process must ask together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def own(tensor: Tensor) -> Tensor:
    """The part of a tensor that lies in this process; sharing memory with it."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def fill(tensor: Tensor, values: Tensor) -> None:
    """Copy whole values into a tensor, or this process's part of them."""
    if isinstance(tensor, DTensor):
        values = distribute_tensor(values.to(tensor.device), tensor.device_mesh, tensor.placements)
    tensor.copy_(values)
