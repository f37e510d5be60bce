"""A checkpoint made ready to serve: loaded, checked against its contract, warmed up, and what it costs measured."""

from __future__ import annotations

import gc
import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import torch

from dreamzero_policy.inference.embodiments import geometry_misfits
from dreamzero_policy.inference.footprint import tensor_bytes
from dreamzero_policy.inference.loading import Policy, load_policy
from dreamzero_policy.inference.parallel.crew import Crew
from dreamzero_policy.inference.parallel.loading import load_leading
from dreamzero_policy.inference.server.settings import Settings
from dreamzero_policy.inference.session import Session
from dreamzero_policy.inference.worker_process import checkpoint_hash
from dreamzero_policy.model.checkpoint import CheckpointError
from dreamzero_policy.runtime.allocator import keep_freed_memory
from dreamzero_policy.runtime.calibration import CALIBRATION_FILE, Calibration, CalibrationError
from dreamzero_policy.runtime.contract import ContractError, load_contract
from dreamzero_policy.runtime.embodiment import Transforms, statistics_document
from dreamzero_policy.runtime.trained import CONTRACT_FILE, load_statistics

MEASURED_CHUNKS = 5


@dataclass(frozen=True)
class Prepared:
    """What is served, and what it costs."""

    policy: Policy
    transforms: Transforms
    contract_hash: str
    checkpoint_hash: str
    chunk_s: float  # the model's time for a block and its chunk, median
    memory_bytes: int  # of one memory, full
    free_bytes: int  # of the device, with the model loaded
    statistics: dict[str, object]  # what a robot needs to have the same transforms
    calibration: dict[str, object] | None  # of surprise, where the checkpoint has one


def prepare(settings: Settings, crew: Crew | None = None) -> Prepared:
    """Run on the thread that will compute: kernels are chosen and memory is taken there.

    With a crew this process leads it.

    Raises CheckpointError, ConfigError or ContractError.
    """
    keep_freed_memory()
    contract = load_contract(settings.contract or settings.checkpoint / CONTRACT_FILE)
    statistics_ = load_statistics(settings.checkpoint, contract, settings.tag)
    options = {
        "dtype": settings.dtype,
        "threads": settings.threads,
        "tokenizer_path": settings.tokenizer,
        "base": settings.base,
    }
    if crew is None:
        policy = load_policy(settings.checkpoint, device=settings.device, **options)
    else:
        policy = load_leading(crew, settings.checkpoint, **options)
    if misfits := geometry_misfits(policy.config, contract.model):
        raise ContractError(f"{settings.checkpoint} does not fit its contract (contract | model): {'; '.join(misfits)}")
    policy.warm_up(settings.steps)
    chunk_s, memory_bytes = measure(policy, settings.steps)
    gc.collect()
    gc.freeze()  # a full collection over everything torch has loaded would take longer than a chunk
    return Prepared(
        policy=policy,
        transforms=Transforms(contract.model, statistics_),
        contract_hash=contract.hash,
        checkpoint_hash=checkpoint_hash(settings.checkpoint),
        chunk_s=chunk_s,
        memory_bytes=memory_bytes,
        free_bytes=free_bytes(policy.device),
        statistics=statistics_document(contract, statistics_.state, statistics_.action),
        calibration=calibration(settings.checkpoint),
    )


def calibration(checkpoint: Path) -> dict[str, object] | None:
    """The document of a checkpoint's surprise.json, if it has one. Raises CheckpointError if that is none."""
    path = checkpoint / CALIBRATION_FILE
    if not path.is_file():
        return None
    try:
        Calibration.load(path)
        return json.loads(path.read_text(encoding="utf-8"))
    except CalibrationError as error:
        raise CheckpointError(str(error)) from error


def measure(policy: Policy, steps: int | None) -> tuple[float, int]:
    """Seconds of a block and its chunk, and bytes of a full memory, on random frames."""
    random = np.random.default_rng(0)
    geometry = policy.config.geometry
    size = (geometry.canvas_height, geometry.canvas_width, 3)
    state = np.zeros(geometry.max_state_dim, np.float32)
    session = Session(policy, "measure what a chunk costs", steps=steps)
    session.observe(random.integers(0, 256, (1, *size), np.uint8))
    seconds, most_bytes = [], 0
    for _ in range(max(MEASURED_CHUNKS, geometry.chunks_per_window + 1)):
        block = random.integers(0, 256, (policy.config.raw_frames_per_chunk, *size), np.uint8)
        began = time.perf_counter()
        session.observe(block)
        prediction = session.predict(state)
        seconds.append(time.perf_counter() - began)
        session.decode(prediction)
        kept = block.nbytes + tensor_bytes([session, prediction])  # a block waits for its comparison
        most_bytes = max(most_bytes, kept)
    return statistics.median(seconds), most_bytes


def free_bytes(device: torch.device) -> int:
    """Memory that is free on a device, or on this machine."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available
