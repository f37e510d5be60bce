"""Which weights are trained: all of the three networks, or low-rank adapters of the transformer (LoRA).

LoRA is peft's, through diffusers. As the released recipes do, adapters stand at queries, keys, values, outputs and both
feed-forward layers, the modules of actions and state are trained in full, and everything else keeps still, text and
image encoders included. Exported weights have the adapters added in, so that a checkpoint is served like any other.
"""

import torch
from torch import Tensor, nn

TUNINGS = ("full", "lora")
LORA_TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2")
TRAINED_IN_FULL = ("state_encoder", "action_encoder", "action_decoder")


class TuningError(RuntimeError):
    """Weights that cannot be tuned as asked; the message says what to do."""


def add_adapters(networks: dict[str, nn.Module], rank: int, alpha: float, seed: int) -> None:
    """Freeze the networks but for adapters in the transformer and its modules of actions and state."""
    try:
        from peft import LoraConfig  # needed for adapters only
    except ImportError as error:
        raise TuningError("tuning: lora needs the package peft; install it, or set tuning: full") from error
    for network in networks.values():
        network.requires_grad_(False)
    transformer = networks["transformer"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer.add_adapter(LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(LORA_TARGETS)))
    for name in TRAINED_IN_FULL:
        getattr(transformer, name).requires_grad_(True)


def without_adapters(state: dict[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """A state dict under the plain names, W + (α / r) B A in place of a weight with an adapter."""
    plain = {}
    for key, tensor in state.items():
        if ".lora_" in key:
            continue
        stem, wrapped, kind = key.partition(".base_layer.")
        if wrapped and kind == "weight":
            down, up = (state[f"{stem}.lora_{side}.default.weight"].float() for side in "AB")
            tensor = tensor.float() + (alpha / len(down)) * (up @ down)
        plain[f"{stem}.{kind}" if wrapped else key] = tensor
    return plain
