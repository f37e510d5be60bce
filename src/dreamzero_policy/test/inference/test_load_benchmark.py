"""The measurement of loading: what it writes and what it says, not how fast it is."""

import dataclasses
import json
from pathlib import Path

import torch

from dreamzero_policy.inference import load_benchmark
from dreamzero_policy.inference.load_benchmark import (
    config_of_size,
    measure,
    memory_of,
    random_source,
    time_both,
    touch,
)
from dreamzero_policy.model.convert import convert
from dreamzero_policy.model.source import open_source


def test_a_generated_checkpoint_has_at_least_the_size_asked_for_and_not_a_layer_more(policy, monkeypatch):
    monkeypatch.setattr(load_benchmark, "SIZES", {"num_attention_heads": 4, "attention_head_dim": 16, "ffn_dim": 128})

    def size(layers: int) -> int:
        config = dataclasses.replace(policy.config.transformer, num_layers=layers, **load_benchmark.SIZES)
        source = random_source(dataclasses.replace(policy.config, transformer=config))
        return sum(2 * torch.Size(s).numel() for c in source.components.values() for s in c.shapes.values())

    layers = config_of_size(policy.config, 2e-3).transformer.num_layers
    assert layers > 1
    assert size(layers) >= 2_000_000 > size(layers - 1)


def test_touching_reads_every_byte(monkeypatch):
    tensors = [torch.full((3,), 1, dtype=torch.uint8), torch.full((2, 2), 5), torch.tensor(1, dtype=torch.int32)]
    assert touch(tensors) == 3 + 20 + 1


def test_a_measurement_is_plain_data_with_both_sides(policy, tmp_path, monkeypatch):
    def in_this_process(what: str, folder: Path, repeats: int) -> dict:
        return time_both(folder, repeats) if what == "time" else memory_of(what, folder)

    monkeypatch.setattr(load_benchmark, "_in_process", in_this_process)
    convert(random_source(policy.config), tmp_path / "random", "release")
    open_source(tmp_path / "random").require_complete()
    document = measure(tmp_path / "random", repeats=1)
    assert json.loads(json.dumps(document)) == document
    assert document["weight_bytes"] > 0
    for side in ("dreamzero", "safetensors"):
        assert set(document[side]) == {"seconds", "first_seconds", "peak_rss", "anonymous"}
    assert document["time_ratio"] == document["dreamzero"]["seconds"] / document["safetensors"]["seconds"]
