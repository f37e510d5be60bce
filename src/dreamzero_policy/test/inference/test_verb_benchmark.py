"""The benchmark measures what it says: its cases are right, its counts are right, its document is plain data."""

import dataclasses
import json

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dreamzero_policy.inference.against import load_module
from dreamzero_policy.inference.benchmark_subject import Subject, random_transformer
from dreamzero_policy.inference.flops import denoise_flops, observe_flops
from dreamzero_policy.inference.verb_benchmark import in_turn, measure_verbs

ANOTHER = """
from dreamzero_policy.model.transformer import WorldActionTransformer

def build(config):
    return WorldActionTransformer.from_model_config(config)

class Wrong:
    pass

answer = 42
"""


@pytest.fixture(scope="module")
def config(policy):
    released = dataclasses.replace(policy.config.sampler, state_attention="release")
    return dataclasses.replace(policy.config, sampler=released)


@pytest.fixture(scope="module")
def subject(config):
    with torch.inference_mode():
        return Subject.prepared(random_transformer(config, torch.float32), config, torch.float32)


@pytest.mark.parametrize("state_attention", ["release", "training"])
@torch.inference_mode()
def test_without_a_cache_come_the_same_velocities(subject, config, state_attention):
    sampler = dataclasses.replace(config.sampler, state_attention=state_attention)
    subject = dataclasses.replace(subject, config=dataclasses.replace(config, sampler=sampler))
    assert sorted(subject.caches) == [1, 3, 5, 7]
    for past in subject.caches:
        for cached, computed in zip(subject.denoise(past), subject.denoise_without_cache(past), strict=True):
            torch.testing.assert_close(computed, cached, rtol=0, atol=5e-6)


@pytest.mark.parametrize("past", [1, 7])
@torch.inference_mode()
def test_operations_are_those_that_torch_counts(subject, config, past):
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        subject.denoise(past)
    assert denoise_flops(config, past) == counter.get_total_flops()
    cache = subject.caches[past].clone() if past == 1 else subject.empty_cache()
    first, count = (1, 2) if past == 1 else (0, 1)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        subject.observe(cache, first, count)
    assert observe_flops(config, first, count) == counter.get_total_flops()


def test_cases_take_turns_and_the_first_turn_does_not_count():
    order = []
    cases = {name: (list, lambda given, name=name: order.append((name, given))) for name in "ab"}
    seconds = in_turn(cases, 2)
    assert order == [("a", []), ("b", [])] * 3
    assert [len(values) for values in seconds.values()] == [2, 2]


def test_a_measurement_beside_another_module_is_plain_data(config, tmp_path):
    (tmp_path / "another.py").write_text(ANOTHER)
    transformer = random_transformer(config, torch.float32)
    other = load_module(f"{tmp_path}/another.py:build", config, torch.float32, transformer.state_dict())
    document = measure_verbs(transformer, config, torch.float32, rounds=2, others={"against": other})
    assert json.loads(json.dumps(document)) == document
    for name in ("cache_growth_1_to_7", "kv_cache_speedup", "one_step_speedup", "context_cache_speedup"):
        assert document[name] > 0
    assert document["denoise_ms"].keys() == {"1", "3", "5", "7"}
    assert document["observe_ms"].keys() == {"0", "1", "3", "5"}
    assert document["chunk_ms"].keys() == {"16", "8", "4", "1"}
    assert document["evaluations"] == {"16": 8, "8": 8, "4": 4, "1": 1}
    assert document["vae_ms"].keys() == {"encode_block", "decode_block"}
    assert document["beside"]["against"]["relative_difference"] == 0
    assert 0 < document["beside"]["bfloat16"]["relative_difference"] < 0.05


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("build", "names no module"),
        ("{file}:nothing", "has no 'nothing'"),
        ("{file}:answer", "is a int, neither a torch module nor something to call"),
        ("{file}:Wrong", "gives a Wrong without context, empty_cache, observe, denoise"),
        ("no_such_module_here:build", "there is no Python module 'no_such_module_here'"),
        ("no/such/file.py:build", "there is no file no/such/file.py"),
    ],
)
def test_what_cannot_be_timed_is_refused_by_name(config, tmp_path, name, message):
    (tmp_path / "another.py").write_text(ANOTHER)
    with pytest.raises(ValueError, match=message):
        load_module(name.format(file=tmp_path / "another.py"), config, torch.float32, {})
