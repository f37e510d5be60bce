"""How long loading a checkpoint takes and how much memory, against safetensors' own reader.

A checkpoint of random weights is written in the released layout. Time is taken in one process, both sides in turn, with
a warm page cache; memory is what the kernel says of a process that loads once. Both sides read every byte of every
tensor, so that a mapped file counts as what it costs.
"""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from dreamzero_policy.model import checkpoint
from dreamzero_policy.model.config import ModelConfig
from dreamzero_policy.model.convert import blank_source, convert
from dreamzero_policy.model.source import Source, Stored, open_source
from dreamzero_policy.model.weights import TensorInfo, Weights

BYTES_EACH = 2  # of a bfloat16
# A layer as wide as the released 14B's: the size of the tensors, not their number, is what makes a checkpoint large.
SIZES = {"num_attention_heads": 40, "attention_head_dim": 128, "ffn_dim": 13824}


class RandomWeights(Weights):
    """Tensors that are drawn when they are looked up."""

    def __getitem__(self, key: str) -> Tensor:
        return torch.randn(self.infos[key].shape, dtype=torch.float32).mul_(0.02).to(torch.bfloat16)


def random_source(config: ModelConfig) -> Source:
    """A complete model of the given sizes with random bfloat16 weights."""
    source = blank_source(config)
    for component in source.components.values():
        weights = RandomWeights({key: TensorInfo("BF16", shape) for key, shape in component.shapes.items()})
        component.stored = {key: Stored(weights, key) for key in component.shapes}
    return source


def config_of_size(template: ModelConfig, gigabytes: float) -> ModelConfig:
    """The template with a wider transformer and as many layers as make the checkpoint at least so large."""

    def parameters(layers: int) -> int:
        sizes = dataclasses.replace(template.transformer, num_layers=layers, **SIZES)
        source = blank_source(dataclasses.replace(template, transformer=sizes))
        shapes = (shape for component in source.components.values() for shape in component.shapes.values())
        return sum(torch.Size(shape).numel() for shape in shapes)

    one, two = parameters(1), parameters(2)
    layers = max(1, 1 - int((one - gigabytes * 1e9 / BYTES_EACH) // (two - one)))  # rounded up
    sizes = dataclasses.replace(template.transformer, num_layers=layers, **SIZES)
    return dataclasses.replace(template, variant=f"random_{gigabytes:g}_gb", transformer=sizes)


def write_random(template: ModelConfig, gigabytes: float, folder: Path) -> int:
    """Write a random checkpoint in the released layout; returns the bytes of its weights."""
    convert(random_source(config_of_size(template, gigabytes)), folder, "release", shard_bytes=1 << 29)
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def touch(tensors: Iterable[Tensor]) -> int:
    """Read every byte of every tensor."""
    return sum(int(_as_integers(tensor.detach().reshape(-1)).sum()) for tensor in tensors)


def _as_integers(tensor: Tensor) -> Tensor:
    """The same bytes as the widest integers that fit, which are the fastest to read."""
    for dtype in (torch.int64, torch.int32, torch.int16):
        if tensor.nbytes % dtype.itemsize == 0 and tensor.storage_offset() * tensor.itemsize % dtype.itemsize == 0:
            return tensor.view(dtype)
    return tensor.view(torch.uint8)


def load_ours(folder: Path) -> Iterable[Tensor]:
    networks, _ = checkpoint.load(folder)
    return [tensor for _, network in networks.items() for tensor in (*network.parameters(), *network.buffers())]


def load_plain(folder: Path) -> Iterable[Tensor]:
    return [tensor for path in sorted(folder.glob("*.safetensors")) for tensor in load_file(path).values()]


LOADERS: dict[str, Callable[[Path], Iterable[Tensor]]] = {"dreamzero": load_ours, "safetensors": load_plain}


def time_both(folder: Path, repeats: int) -> dict[str, Any]:
    """Seconds of both loaders in this process, taken in turn, with a warm page cache."""
    seconds: dict[str, list[float]] = {name: [] for name in LOADERS}
    for _ in range(repeats + 1):  # the first round warms the page cache and is not counted
        for name, load in LOADERS.items():
            start = time.perf_counter()
            tensors = load(folder)
            touch(tensors)
            seconds[name].append(time.perf_counter() - start)
            del tensors
    return {name: {"seconds": statistics.median(runs[1:]), "first_seconds": runs[0]} for name, runs in seconds.items()}


def memory_of(loader: str, folder: Path) -> dict[str, int]:
    """Memory [bytes] of one loader in this process, beyond what the process had before."""
    before = _memory()
    tensors = LOADERS[loader](folder)
    touch(tensors)
    after = _memory()
    return {"peak_rss": after["VmHWM"] - before["VmRSS"], "anonymous": after["RssAnon"] - before["RssAnon"]}


def measure(folder: Path, repeats: int) -> dict[str, Any]:
    """Time and memory of both loaders, and their ratios. Memory is taken in a process of its own for each."""
    weights = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    results = _in_process("time", folder, repeats)
    for name in LOADERS:
        results[name] |= _in_process(name, folder, repeats)
    ours, plain = results["dreamzero"], results["safetensors"]
    return {
        "weight_bytes": weights,
        "tensors": sum(len(c.shapes) for c in open_source(folder).components.values()),
        "repeats": repeats,
        **results,
        "time_ratio": ours["seconds"] / plain["seconds"],
        "peak_rss_ratio": ours["peak_rss"] / weights,
        "anonymous_ratio": ours["anonymous"] / weights,
    }


def _in_process(what: str, folder: Path, repeats: int) -> dict[str, Any]:
    command = [sys.executable, "-m", __name__, what, str(folder), str(repeats)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def _memory() -> dict[str, int]:
    """Of this process, in bytes: resident now, its anonymous part, and the most that was ever resident."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return {name: int(fields[name].split()[0]) * 1024 for name in ("VmRSS", "RssAnon", "VmHWM")}


if __name__ == "__main__":
    what, folder, repeats = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    print(json.dumps(time_both(folder, repeats) if what == "time" else memory_of(what, folder)))
