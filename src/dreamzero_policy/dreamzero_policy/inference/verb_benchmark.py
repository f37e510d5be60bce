"""What the transformer's verbs cost, and what each saving saves: KV cache, context cache, fewer steps, other kernels.

All cases of a comparison run in turn, round by round, and a ratio is the median of the rounds' ratios, so that a
neighbour on the machine disturbs both sides alike.
"""

from __future__ import annotations

import copy
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from dreamzero_policy.inference.benchmark_subject import EVALUATIONS, Subject
from dreamzero_policy.inference.compilation import compile_blocks
from dreamzero_policy.inference.flops import denoise_flops, observe_flops
from dreamzero_policy.model.autoencoder import Stream, VideoAutoencoder, build_autoencoder, speed_up_on_cpu
from dreamzero_policy.model.config import ModelConfig
from dreamzero_policy.model.flow import evaluated_steps
from dreamzero_policy.model.transformer import WorldActionTransformer

STEPS = (16, 8, 4, 1)
PEAK_SIZE = 1024
MANY_TIMES = 4


@torch.inference_mode()
def measure_verbs(
    transformer: WorldActionTransformer,
    config: ModelConfig,
    dtype: torch.dtype,
    *,
    rounds: int = 7,
    others: dict[str, nn.Module] | None = None,
    compiled: bool = False,
    vae: bool = True,
) -> dict[str, Any]:
    """Measure one transformer, and others beside it.

    Args:
        transformer: on its device, in ``dtype``.
        rounds: how often each case runs; medians count.
        others: modules in ``dtype`` with our verbs (:func:`~.against.load_module`), by name. Each is timed in turn with
            ours, at a denoising call behind the longest past; so is ours in the other dtype.
        compiled: put our transformer through torch.compile as one more of the others.
        vae: measure the video autoencoder too, apart from everything else.

    Returns plain data: milliseconds (medians), operations, ratios. ``docs/reference/benchmarks.md`` says what each is.
    """
    subject = Subject.prepared(transformer, config, dtype)
    pasts = sorted(subject.caches)
    shortest, longest = pasts[0], pasts[-1]
    before_last = pasts[-2] if len(pasts) > 1 else 0
    last_block = longest - before_last

    cases: dict[str, tuple[Callable[[], Any], Callable[[Any], object]]] = {
        f"denoise {past}": (_nothing, lambda _, past=past: subject.denoise(past)) for past in pasts
    }
    for first, count in subject.blocks:
        fresh = subject.caches[first].clone if first else subject.empty_cache
        cases[f"observe {first}"] = (fresh, lambda cache, first=first, n=count: subject.observe(cache, first, n))
    cases["recompute"] = (_nothing, lambda _: subject.denoise_without_cache(longest))
    inputs = subject.inputs
    cases["text"] = (_nothing, lambda _: transformer.encode_text(inputs["text"]))
    cases["image"] = (_nothing, lambda _: transformer.encode_image(inputs["image"]))
    load_before = os.getloadavg()[0]
    seconds = in_turn(cases, rounds)
    chunk_cases = {f"chunk {n}": (_nothing, lambda _, n=n: subject.chunk(longest, n)) for n in STEPS}
    seconds |= in_turn(chunk_cases, max(2, rounds // 3))

    def at(name: str) -> float:
        return statistics.median(seconds[name])

    def ratio(value: Callable[[dict[str, float]], float]) -> float:
        names = [name for name in seconds if not name.startswith("chunk")]
        return statistics.median(value({name: seconds[name][i] for name in names}) for i in range(rounds))

    denoise, observe = f"denoise {longest}", f"observe {before_last}"
    peak = matmul_peak(dtype, _device(transformer))
    evaluations = {steps: len(evaluated_steps(steps, EVALUATIONS)) for steps in STEPS}
    kv_cache = {
        str(steps): ratio(lambda s, n=n: n * s["recompute"] / (s[observe] + n * s[denoise]))
        for steps, n in evaluations.items()
    }
    operations = {f"denoise_{past}": denoise_flops(config, past) for past in pasts}
    operations[f"observe_{before_last}"] = observe_flops(config, before_last, last_block)
    document = {
        "variant": config.variant,
        "dtype": _name(dtype),
        "device": str(_device(transformer)),
        "threads": torch.get_num_threads(),
        "rounds": rounds,
        "load_average": [load_before, os.getloadavg()[0]],
        "parameters": sum(parameter.numel() for parameter in transformer.parameters()),
        "denoise_ms": {str(past): 1e3 * at(f"denoise {past}") for past in pasts},
        "observe_ms": {str(first): 1e3 * at(f"observe {first}") for first, _ in subject.blocks},
        "chunk_ms": {str(steps): 1e3 * (at(observe) + at(f"chunk {steps}")) for steps in STEPS},
        "evaluations": {str(steps): n for steps, n in evaluations.items()},
        "recompute_ms": 1e3 * at("recompute"),
        "encode_text_ms": 1e3 * at("text"),
        "encode_image_ms": 1e3 * at("image"),
        "flops": operations,
        "matmul_peak_flops_per_s": peak,
        "share_of_peak": {
            f"denoise_{longest}": operations[f"denoise_{longest}"] / at(denoise) / peak,
            f"observe_{before_last}": operations[f"observe_{before_last}"] / at(observe) / peak,
        },
        f"cache_growth_{shortest}_to_{longest}": ratio(lambda s: s[denoise] / s[f"denoise {shortest}"]),
        "kv_cache_speedup": kv_cache[str(STEPS[0])],
        "kv_cache_speedup_by_steps": kv_cache,
        "one_step_speedup": ratio(lambda s: (s[observe] + 4 * s[denoise]) / (s[observe] + s[denoise])),
        "context_cache_speedup": ratio(lambda s: (s[denoise] + s["text"] + s["image"]) / s[denoise]),
    }
    other_dtype = torch.bfloat16 if dtype == torch.float32 else torch.float32
    beside = {_name(other_dtype): subject.cast(other_dtype)}
    beside |= {name: Subject.prepared(module, config, dtype) for name, module in (others or {}).items()}
    document["beside"] = {name: _beside(subject, other, longest, rounds) for name, other in beside.items()}
    if compiled:
        document["beside"]["compiled"] = _compiled(subject, dtype, longest, rounds)
    if vae:
        document["vae_ms"] = measure_vae(config, dtype, _device(transformer), rounds)
    return document


def in_turn(cases: dict[str, tuple[Callable[[], Any], Callable[[Any], object]]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every case in every round. A case is a preparation, which is not timed, and what to do with it."""
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(-1, rounds):  # the first turn warms up
        for name, (prepare, run) in cases.items():
            given = prepare()
            _finish()
            start = time.perf_counter()
            run(given)
            _finish()
            if turn >= 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def matmul_peak(dtype: torch.dtype, device: torch.device) -> float:
    """Operations per second of a square matrix product, the best of ten: what this machine can do now."""
    a, b = (torch.randn(PEAK_SIZE, PEAK_SIZE, device=device).to(dtype) for _ in range(2))
    best = min(in_turn({"matmul": (_nothing, lambda _: torch.matmul(a, b))}, 10)["matmul"])
    return 2 * PEAK_SIZE**3 / best


def measure_vae(config: ModelConfig, dtype: torch.dtype, device: torch.device, rounds: int) -> dict[str, float]:
    """Milliseconds of encoding and decoding one block in the middle of a stream, random weights."""
    network = build_autoencoder(config.autoencoder).to(device).type(dtype).eval().requires_grad_(False)
    if device.type == "cpu":
        speed_up_on_cpu(network)
    autoencoder, encoding, decoding = VideoAutoencoder(network), Stream(), Stream()
    size = (config.geometry.canvas_height, config.geometry.canvas_width)
    video = torch.randn(1, 3, 1 + config.raw_frames_per_chunk, *size, device=device).to(dtype)
    parts = [autoencoder.encode(part, encoding) for part in (video[:, :, :1], video[:, :, 1:])]
    latents = torch.cat(parts, dim=2)
    autoencoder.decode(latents, decoding)
    seconds = in_turn(
        {
            "encode_block": (encoding.copy, lambda stream: autoencoder.encode(video[:, :, 1:], stream)),
            "decode_block": (decoding.copy, lambda stream: autoencoder.decode(latents[:, :, 1:], stream)),
        },
        rounds,
    )
    return {name: 1e3 * statistics.median(values) for name, values in seconds.items()}


def _beside(ours: Subject, other: Subject, past: int, rounds: int) -> dict[str, Any]:
    """A denoising call of both, in turn; how much faster the other is, and how far its video velocity is from ours.

    An other that is many times slower is called once.
    """
    velocity, other_s = _timed(partial(other.denoise, past))
    reference, ours_s = _timed(partial(ours.denoise, past))
    seconds = {"ours": [ours_s], "other": [other_s]}
    if other_s < MANY_TIMES * ours_s:
        subjects = {"ours": ours, "other": other}
        seconds = in_turn({n: (_nothing, lambda _, s=s: s.denoise(past)) for n, s in subjects.items()}, rounds)
    ratios = (a / b for a, b in zip(seconds["ours"], seconds["other"], strict=True))
    difference = velocity[0].float() - reference[0].float()
    return {
        "dtype": _name(other.inputs["state"].dtype),
        "denoise_ms": 1e3 * statistics.median(seconds["other"]),
        "ours_ms": 1e3 * statistics.median(seconds["ours"]),
        "rounds": len(seconds["other"]),
        "speedup_over_ours": statistics.median(ratios),
        "relative_difference": float(difference.norm() / reference[0].float().norm()),
    }


def _compiled(ours: Subject, dtype: torch.dtype, past: int, rounds: int) -> dict[str, Any]:
    """Our transformer with compiled blocks, on a copy."""
    transformer = copy.deepcopy(ours.transformer)
    compile_blocks(transformer)
    start = time.perf_counter()
    other = Subject.prepared(transformer, ours.config, dtype)
    other.denoise(past)
    warm_up_s = time.perf_counter() - start
    return {"warm_up_s": warm_up_s, **_beside(ours, other, past, rounds)}


def _timed(run: Callable[[], Any]) -> tuple[Any, float]:
    _finish()
    start = time.perf_counter()
    result = run()
    _finish()
    return result, time.perf_counter() - start


def _device(module: Any) -> torch.device:
    return next(module.parameters()).device


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _nothing() -> None:
    return None


def _finish() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
