"""How long a model takes for what a robot asks of it: block by block, on a session that runs like a live one."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch

from dreamzero_policy.inference.loading import Policy
from dreamzero_policy.inference.session import Session
from dreamzero_policy.inference.surprise import difference


def measure(
    policy: Policy, *, steps: int | None = None, cfg_scale: float | None = None, blocks: int = 12, seed: int = 0
) -> dict[str, object]:
    """Observe and predict ``blocks`` blocks of random frames after warming up.

    Returns plain data. All times are milliseconds as ``{"p50", "p95"}``, of blocks that continue a window; blocks that
    open one are apart in ``window_ms``. ``surprise_ms`` and ``surprise_window_ms`` are what follows behind the answer:
    comparing such a block with what was predicted. ``capacity_hz`` is 1 / median of observe + predict over all blocks:
    the rate of chunks the model could sustain here.

    Raises ValueError for fewer blocks than a window has, since then one kind of block would not be measured.
    """
    config = policy.config
    if blocks < config.geometry.chunks_per_window:
        raise ValueError(f"measure at least {config.geometry.chunks_per_window} blocks (one window), got {blocks}")
    policy.warm_up(steps, cfg_scale)
    session = Session(policy, "measure", steps=steps, cfg_scale=cfg_scale)
    random = np.random.default_rng(seed)
    shape = (config.raw_frames_per_chunk, config.geometry.canvas_height, config.geometry.canvas_width, 3)
    frames = random.integers(0, 256, shape, dtype=np.uint8)
    state = np.zeros(config.geometry.max_state_dim, np.float32)

    session.observe(frames[:1])
    continued: dict[str, list[float]] = {"encode": [], "observe": [], "denoise": [], "block": []}
    opened: list[float] = []
    compared: dict[bool, list[float]] = {False: [], True: []}  # by whether the block opened a window
    prediction = session.predict(state)
    for _ in range(blocks):
        before, stream = prediction, session.stream
        start = time.perf_counter()
        observation = session.observe(frames)
        prediction = session.predict(state)
        seconds = time.perf_counter() - start
        if observation.window_opened:
            opened.append(seconds)
        else:
            continued["block"].append(seconds)
            for part in ("encode", "observe", "denoise"):
                continued[part].append(prediction.timings_s[part])
        start = time.perf_counter()
        seen = session.encoded(frames, stream)[0] if observation.window_opened else observation.latents
        difference(before.expected_latents, seen).cpu()
        compared[observation.window_opened].append(time.perf_counter() - start)
    start = time.perf_counter()
    session.decode(prediction)
    decode_s = time.perf_counter() - start
    return {
        "variant": config.variant,
        "device": str(policy.device),
        "dtype": str(policy.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "parameters": policy.parameters,
        "weight_bytes": policy.weight_bytes,
        "steps": prediction.steps,
        "evaluations": prediction.evaluations,
        "cfg_scale": prediction.cfg_scale,
        "blocks": blocks,
        **{f"{part}_ms": _percentiles(values) for part, values in continued.items()},
        "window_ms": _percentiles(opened),
        "surprise_ms": _percentiles(compared[False]),
        "surprise_window_ms": _percentiles(compared[True]),
        "decode_ms": 1e3 * decode_s,
        "capacity_hz": 1 / float(np.median(continued["block"] + opened)),
    }


def _percentiles(seconds: Sequence[float]) -> dict[str, float] | None:
    """None where there were no such blocks: with one chunk a window every block opens one."""
    if not seconds:
        return None
    return {name: 1e3 * float(np.percentile(seconds, q)) for name, q in (("p50", 50), ("p95", 95))}
