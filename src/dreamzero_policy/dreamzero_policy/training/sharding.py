"""Weights spread over processes by FSDP2 (`fully_shard`), each block gathered for as long as it works.

Parameters stay float32, their own masters; with bfloat16 the products run under autocast. The training pass enters
modules of the transformer through other doors than ``forward``, so those are announced. The encoders are entered
through a :class:`Gathered` around them: `fully_shard` gives a module another class, and transformers looks up by class
which hidden states a network can give.
"""

from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from transformers.configuration_utils import PreTrainedConfig

from dreamzero_policy.training.window_pass import run_layer, window_velocities


class Gathered(nn.Module):
    """An encoder whose weights are gathered while it works."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, **arguments: Any) -> Any:
        return self.network(**arguments)

    @property
    def config(self) -> PreTrainedConfig:
        return self.network.config

    @property
    def dtype(self) -> torch.dtype:
        return self.network.dtype


def shard(networks: dict[str, nn.Module], device: torch.device, size: int) -> dict[str, nn.Module]:
    """Spread all networks over all processes, in place; returns what to call for each of them."""
    mesh = init_device_mesh(device.type, (size,))
    transformer = networks["transformer"]
    for block in transformer.blocks:
        fully_shard(block, mesh=mesh)
        block.run_layer = MethodType(run_layer, block)
        register_fsdp_forward_method(block, "run_layer")
    fully_shard(transformer, mesh=mesh)
    transformer.window_velocities = MethodType(window_velocities, transformer)
    register_fsdp_forward_method(transformer, "window_velocities")
    entered = {name: Gathered(network) for name, network in networks.items() if network is not transformer}
    for network in entered.values():
        fully_shard(network, mesh=mesh)
    return {"transformer": transformer, **entered}
