"""Several processes that hold one small model: rank 0 does a piece of work, the others follow."""

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dreamzero_policy.inference.parallel.crew import Crew, Shape, join
from dreamzero_policy.inference.parallel.loading import LeadingPolicy, load_following, load_leading
from dreamzero_policy.inference.parallel.lockstep import follow
from dreamzero_policy.model import checkpoint
from dreamzero_policy.model.config import ModelConfig

HEADS = 4


@pytest.fixture(scope="session")
def divisible_config(guided_config: ModelConfig) -> ModelConfig:
    """The small variant with guidance and four heads."""
    return replace(guided_config, transformer=replace(guided_config.transformer, num_attention_heads=HEADS))


@pytest.fixture(scope="session")
def divisible_folder(divisible_config: ModelConfig, write_checkpoint, tmp_path_factory) -> Path:
    """Of random weights, biases and norms too: an untrained model's are zeros and ones, of which any part is right."""
    networks, config = checkpoint.load(write_checkpoint(divisible_config, tmp_path_factory.mktemp("untrained")))
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for parameter in networks.transformer.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    folder = tmp_path_factory.mktemp("divisible")
    checkpoint.save(networks, config, folder)
    return folder


@dataclass(frozen=True)
class Together:
    """What became of it: rank 0's result, and of every other rank what it still held at the end and its weights."""

    result: Any
    held: list[int]
    weights: list[int]


@pytest.fixture(scope="session")
def together(divisible_folder: Path, tmp_path_factory) -> Callable[..., Together]:
    """Does ``work(policy)`` with the model on the processes of a shape."""

    def together(shape: Shape, work: Callable[[LeadingPolicy], Any], dtype: str = "float32") -> Together:
        results = tmp_path_factory.mktemp("together")
        torch.multiprocessing.start_processes(
            _member,
            (shape, free_port(), divisible_folder, dtype, work, results),
            nprocs=shape.size,
            start_method="fork",
        )
        result, *others = (torch.load(results / str(rank), weights_only=False) for rank in range(shape.size))
        return Together(result, [held for held, _ in others], [weights for _, weights in others])

    return together


def _member(
    rank: int, shape: Shape, port: int, folder: Path, dtype: str, work: Callable[[LeadingPolicy], Any], results: Path
) -> None:
    crew = join_as(rank, shape, port)
    if crew.leads:
        policy = load_leading(crew, folder, dtype=dtype)
        torch.save(work(policy), results / "0")
        policy.end()
    else:
        transformer = load_following(crew, folder, dtype=dtype)
        held = follow(transformer, crew)
        torch.save((held, sum(parameter.numel() for parameter in transformer.parameters())), results / str(rank))
    crew.leave()


def join_as(rank: int, shape: Shape, port: int, **options: Any) -> Crew:
    """As torchrun would have started this process."""
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(shape.size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    return join(shape, "cpu", **options)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
