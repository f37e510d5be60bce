"""summary.json: the numbers of a run. The keys are an interface; every value is measured.

model_ms is the model's own time for a chunk (encode, observe, denoise); overhead_ms runs from the receipt of the
block's last frame to the trajectory published, minus model_ms; transport_ms from a frame's stamp to its receipt;
observation_to_command_ms from the observation instant to the first commanded point; stages_ms holds the whole latency
protocol (docs/reference/latency.md). capacity_hz is what the model alone could sustain.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dreamzero_policy.runtime.latency import EDGES_MS, Histogram

MS_PER_S = 1e3


@dataclass
class RunRecord:
    """What is collected while a run lasts."""

    seconds: float = 0.0
    model_s: list[float] = field(default_factory=list)
    overhead_s: list[float] = field(default_factory=list)
    transport_s: list[float] = field(default_factory=list)
    observation_to_command_s: list[float] = field(default_factory=list)
    stages_s: dict[str, list[float]] = field(default_factory=dict)  # by the latency protocol
    seam_velocity_jumps: list[float] = field(default_factory=list)
    chunks: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    dropped_frames: dict[str, int] = field(default_factory=dict)
    plan_underruns: int = 0
    regime_seconds: dict[str, float] = field(default_factory=dict)
    peak_rss_mb: dict[str, float] = field(default_factory=dict)
    twin_real_time_factor: list[float] = field(default_factory=list)
    prompts: list[str] = field(default_factory=list)
    tasks: list[dict[str, Any]] = field(default_factory=list)  # of prompts that are the scene's own task
    denoise_steps: int = 0
    guidance_scale: float = 0.0
    contract_hash: str = ""
    checkpoint_hash: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    seed: int = 0

    def summary(self) -> dict[str, Any]:
        """The JSON document. A percentile of nothing is null."""
        model_s = _percentile(self.model_s, 50)
        return {
            "seconds": round(self.seconds, 3),
            "chunks": self.chunks,
            "chunk_rate_hz": round(self.chunks / self.seconds, 4) if self.seconds else None,
            "capacity_hz": round(1 / model_s, 3) if model_s else None,
            "observation_to_command_ms": _milliseconds(self.observation_to_command_s, (50, 95, 99)),
            "model_ms": _milliseconds(self.model_s, (50, 95)),
            "overhead_ms": _milliseconds(self.overhead_s, (50, 95)),
            "transport_ms": _milliseconds(self.transport_s, (50, 95)),
            "stages_ms": {stage: _stage(values) for stage, values in self.stages_s.items()},
            "histogram_edges_ms": list(EDGES_MS),
            "rejected_chunks": dict(self.rejected),
            "dropped_frames": self.dropped_frames,
            "plan_underruns": self.plan_underruns,
            "max_seam_velocity_jump_rad_s": round(max(self.seam_velocity_jumps), 6)
            if self.seam_velocity_jumps
            else None,
            "regime_seconds": {regime: round(seconds, 3) for regime, seconds in self.regime_seconds.items()},
            "twin_real_time_factor": round(float(np.median(self.twin_real_time_factor)), 4)
            if self.twin_real_time_factor
            else None,
            "peak_rss_mb": {process: round(megabytes, 1) for process, megabytes in self.peak_rss_mb.items()},
            "denoise_steps": self.denoise_steps,
            "guidance_scale": round(self.guidance_scale, 3),
            "prompts": self.prompts,
            "tasks": self.tasks,
            "tasks_done": sum(task["success"] for task in self.tasks),
            "versions": self.versions,
            "contract_hash": self.contract_hash,
            "checkpoint_hash": self.checkpoint_hash,
            "seed": self.seed,
        }


def write_summary(summary: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(summary, indent=2) + "\n")


def _stage(values_s: Sequence[float]) -> dict[str, Any]:
    histogram = Histogram()
    for seconds in values_s:
        histogram.add(seconds)
    return {**_milliseconds(values_s, (50, 95, 99)), "histogram": histogram.counts}


def _percentile(values_s: Sequence[float], percent: float) -> float | None:
    return float(np.percentile(values_s, percent)) if len(values_s) else None


def _milliseconds(values_s: Sequence[float], percents: Sequence[int]) -> dict[str, float | None]:
    values = {percent: _percentile(values_s, percent) for percent in percents}
    return {f"p{percent}": None if value is None else round(value * MS_PER_S, 3) for percent, value in values.items()}
