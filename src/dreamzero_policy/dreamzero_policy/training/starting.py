"""The networks that training begins with: drawn from a seed, of a checkpoint, or as the stage before left them."""

from pathlib import Path

import torch
from torch import nn

from dreamzero_policy.model import checkpoint as checkpoints
from dreamzero_policy.model.config import ModelConfig

TRAINED = ("transformer", "text_encoder", "image_encoder")
GROUNDED_FOLDER = "grounded"  # of a run: what its stage grounding leaves
HEADS_FILE = "heads.safetensors"  # in it: the heads of the exercise
COMPARED = ("geometry", *TRAINED, "autoencoder")  # sections of two models' configurations that must agree


class StartError(ValueError):
    """A checkpoint that training cannot go on from; the message says why."""


def grounded_networks(config: ModelConfig, folder: Path) -> dict[str, nn.Module]:
    """The networks as the stage `grounding` left them. Raises CheckpointError: they have other sizes."""
    made = checkpoints.builders(config)
    return {name: checkpoints.load_network(folder / name, made[name]) for name in TRAINED}


def starting_networks(config: ModelConfig, seed: int, start: Path | None) -> dict[str, nn.Module]:
    """The networks that are trained, drawn from the seed, or as they are in the checkpoint `start`.

    Raises:
        StartError: the checkpoint's networks have other sizes.
    """
    made = checkpoints.builders(config)
    if start is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            networks = {name: made[name]() for name in TRAINED}
            networks["transformer"].initialise_weights()
            networks["image_encoder"].initialise_positions()
        return networks
    loaded, found = checkpoints.load(start, torch.float32)
    for name in COMPARED:
        ours, theirs = getattr(config, name), getattr(found, name)
        if ours != theirs:
            field = next(field for field in vars(ours) if getattr(ours, field) != getattr(theirs, field))
            raise StartError(
                f"start: {start} has {name}.{field} = {getattr(theirs, field)!r}, "
                f"this training has {getattr(ours, field)!r}"
            )
    networks = {name: made[name]() for name in TRAINED}
    for name, network in networks.items():
        network.load_state_dict(getattr(loaded, name).state_dict())
    return networks
