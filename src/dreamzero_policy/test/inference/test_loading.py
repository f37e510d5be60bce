"""A checkpoint made ready to act."""

import json
from dataclasses import replace

import pytest
import torch

from dreamzero_policy.inference.benchmark import measure
from dreamzero_policy.inference.loading import fastest_dtype, load_policy
from dreamzero_policy.model.checkpoint import CheckpointError


def test_a_loaded_policy_is_in_its_dtype_frozen_and_in_evaluation_mode(checkpoint_folder):
    policy = load_policy(checkpoint_folder, dtype="bfloat16")
    assert policy.dtype == torch.bfloat16
    assert policy.autoencoder.dtype == torch.bfloat16
    for _, network in policy.networks.items():
        assert not network.training
        assert not any(p.requires_grad for p in network.parameters())
    assert policy.parameters.keys() == {"transformer", "vae", "text_encoder", "image_encoder"}
    assert policy.weight_bytes < load_policy(checkpoint_folder).weight_bytes


def test_auto_takes_a_dtype_that_was_measured(checkpoint_folder):
    assert fastest_dtype("cpu") in ("float32", "bfloat16")
    assert str(load_policy(checkpoint_folder, dtype="auto").dtype).removeprefix("torch.") in ("float32", "bfloat16")


def test_threads_are_set_for_the_process(checkpoint_folder):
    load_policy(checkpoint_folder, threads=2)
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [({"dtype": "float16"}, "dtype is 'float16'"), ({"threads": 0}, "threads must be at least 1, got 0")],
)
def test_impossible_options_are_refused(checkpoint_folder, options, message):
    with pytest.raises(ValueError, match=message):
        load_policy(checkpoint_folder, **options)


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="is not a checkpoint"):
        load_policy(tmp_path)


def test_warming_up_says_what_it_did(policy, caplog):
    with caplog.at_level("INFO"):
        seconds = policy.warm_up(steps=1)
    assert list(seconds) == ["open_window", "encode_block", "observe_block", "predict"]
    assert "warmed up small with 1 steps on cpu: open_window" in caplog.text


def test_a_measurement_is_plain_data(policy):
    result = measure(policy, steps=1, blocks=4)
    assert json.loads(json.dumps(result)) == result
    assert (result["steps"], result["evaluations"], result["variant"]) == (1, 1, "small")
    assert result["capacity_hz"] > 0
    assert set(result["block_ms"]) == {"p50", "p95"}
    with pytest.raises(ValueError, match=r"at least 4 blocks \(one window\), got 3"):
        measure(policy, blocks=3)


def test_measuring_says_what_it_did_not_see_where_every_block_opens_a_window(policy):
    sampler = replace(policy.config.sampler, window_chunks=1)
    result = measure(replace(policy, config=replace(policy.config, sampler=sampler)), steps=1, blocks=4)
    assert result["block_ms"] is result["encode_ms"] is result["surprise_ms"] is None
    assert result["window_ms"]["p50"] > 0 and result["surprise_window_ms"]["p50"] > 0
