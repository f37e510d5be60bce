"""How long a piece of work takes on the wall and on the CPU."""

import time
from dataclasses import dataclass, field

import numpy as np


@dataclass
class Stopwatch:
    """Runs of the work in its `with` block [s]. CPU time is this thread's own, which a busy machine lengthens less."""

    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)

    def __enter__(self) -> None:
        self._cpu_s = time.thread_time()  # a call into the system, which may take its time: outside of the wall's
        self._wall_s = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.wall_s.append(time.perf_counter() - self._wall_s)
        self.cpu_s.append(time.thread_time() - self._cpu_s)

    def told(self, what: str) -> str:
        """A line for a person."""
        told = []
        for name, seconds in (("wall", self.wall_s), ("CPU", self.cpu_s)):
            p50, p95, p99 = np.percentile(1e3 * np.array(seconds), [50, 95, 99])
            told.append(f"{name} p50 {p50:.2f} ms, p95 {p95:.2f} ms, p99 {p99:.2f} ms")
        return f"{len(self.wall_s)} {what}: {'; '.join(told)}"
