"""The latency protocol: where the time between an observation and its motion goes, as docs/reference/latency.md says.

    observation ─request─► asked ─handover─► [encode observe imagine denoise] ─► answered ─command─► first point
                                              model

request + handover + model + command is the time from the observation instant to the first commanded point.
"""

from bisect import bisect_left
from collections import deque
from dataclasses import dataclass, field

from dreamzero_policy.runtime.chunk import Chunk
from dreamzero_policy.runtime.observation import NS_PER_S

REMEMBERED = 8  # answers
EDGES_MS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
MODEL_STAGES = ("encode", "observe", "imagine", "denoise")
STAGES_TO_ANSWER = ("request", "handover", "model", *MODEL_STAGES)
STAGES = (*STAGES_TO_ANSWER, "command", "observation_to_command", "observation_to_row")


def stages_s(chunk: Chunk) -> dict[str, float]:
    """Seconds of every stage; those behind the answer only for a chunk that is executed."""
    model_s = chunk.reply.timings_s.get("model", 0.0)
    stages = {
        "request": (chunk.asked_ns - chunk.block.observation_ns) / NS_PER_S,
        "handover": (chunk.answered_ns - chunk.asked_ns) / NS_PER_S - model_s,
        "model": model_s,
    }
    stages |= {stage: chunk.reply.timings_s.get(stage, 0.0) for stage in MODEL_STAGES}
    if chunk.start_ns:
        answered_s = (chunk.answered_ns - chunk.block.observation_ns) / NS_PER_S
        stages["command"] = chunk.observation_to_command_s - answered_s
        stages["observation_to_command"] = chunk.observation_to_command_s
        stages["observation_to_row"] = (chunk.start_ns - chunk.block.observation_ns) / NS_PER_S
    return stages


@dataclass
class Histogram:
    """Counts of durations up to each of EDGES_MS, and above the last."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(EDGES_MS) + 1))

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(EDGES_MS, seconds * 1e3)] += 1

    def __str__(self) -> str:
        names = [*(f"<={edge}" for edge in EDGES_MS), f">{EDGES_MS[-1]}"]
        return " ".join(f"{name}:{count}" for name, count in zip(names, self.counts, strict=True) if count)


@dataclass
class LatencyRecord:
    """Histograms of all chunks since it was made, and how long the last answers took."""

    histograms: dict[str, Histogram] = field(default_factory=lambda: {stage: Histogram() for stage in STAGES})

    answers_s: deque[float] = field(default_factory=lambda: deque(maxlen=REMEMBERED))

    @property
    def answer_s(self) -> float | None:
        """From a request to its answer: the slowest of the last. None before a block was answered.

        A frame that opens a window costs less than a block, and waits for its prompt: it tells nothing.
        """
        return max(self.answers_s, default=None)

    def add(self, chunk: Chunk) -> None:
        if len(chunk.block.canvas) > 1:
            self.answers_s.append((chunk.answered_ns - chunk.asked_ns) / NS_PER_S)
        for stage, seconds in stages_s(chunk).items():
            self.histograms[stage].add(seconds)
