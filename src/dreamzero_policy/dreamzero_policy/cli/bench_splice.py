"""`dreamzero bench splice`: what going over from the plan in execution into a new chunk costs on this machine.

All joints are in motion: a chunk of sine waves is taken over a third of its way in by one that begins a little beside.
"""

import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from dreamzero_policy.runtime import kernels
from dreamzero_policy.runtime.contract import JointLimits
from dreamzero_policy.runtime.limits import CONTROL_NS, Limits
from dreamzero_policy.runtime.observation import NS_PER_S
from dreamzero_policy.runtime.plan import Plan, Rows
from dreamzero_policy.runtime.splice import splice

STEP_NS = NS_PER_S // 30
LEAD_NS, FIRST_POINT_NS = 60_000_000, 50_000_000
BLENDS_S = (0.2, 0.35, 0.6)
BESIDE_RAD = 0.02
WARM_UP = 50  # repeats that do not count


def bench_splice(rows: int, joints: int, repeats: int) -> dict[str, Any]:
    """Time the whole splice, as the loop does it, and its parts.

    Every figure is milliseconds as ``{"p50", "p99"}``: of wall time, and under ``cpu_ms`` of this thread's own time,
    which a busy machine lengthens less.
    """
    limit = JointLimits(lower=-3.0, upper=3.0, velocity=3.0, acceleration=10.0, jerk=400.0, step=0.2)
    names = [f"joint{i}" for i in range(joints)]
    limits = Limits(names, dict.fromkeys(names, limit))
    phase, t = np.arange(joints), np.arange(rows)[:, None] * STEP_NS / NS_PER_S

    def waves(later_ns: int) -> np.ndarray:
        return 0.3 * np.sin(2 * (t + later_ns / NS_PER_S) + phase)

    begin = Rows(waves(0), LEAD_NS, STEP_NS)
    first = splice(Plan.rest(waves(0)[0], 0), begin, LEAD_NS, BLENDS_S, limits)
    now_ns = rows // 3 * STEP_NS
    beside = np.random.default_rng(0).normal(scale=BESIDE_RAD, size=joints).clip(-0.1, 0.1)
    chunk = Rows(waves(now_ns) + beside, now_ns + LEAD_NS, STEP_NS)

    def as_sent() -> Plan:
        return first.plan.as_sent(now_ns, now_ns + FIRST_POINT_NS, CONTROL_NS)

    present = as_sent()
    whole = splice(present, chunk, chunk.start_ns, BLENDS_S, limits)
    if not whole.judgement:
        raise ValueError(f"{rows} rows of {joints} joints are not a motion that the limits allow: {whole.judgement}")
    (fade,) = present.cross_fades(chunk, BLENDS_S[:1])
    timed = {
        "splice": lambda: splice(as_sent(), chunk, chunk.start_ns, BLENDS_S, limits),
        "cross_fade": lambda: next(present.cross_fades(chunk, BLENDS_S)),
        "bridge": lambda: present.bridge(chunk, limits.by_joint),
        "tail": lambda: fade.with_tail(limits.by_joint, STEP_NS),
        "judge": lambda: limits.judge(Plan(whole.plan.knots_ns, whole.plan.positions, whole.plan.velocities)),
    }
    before = os.getloadavg()
    wall_ms, cpu_ms = zip(*(_timed(part, repeats) for part in timed.values()), strict=True)
    return {
        "rows": rows,
        "joints": joints,
        "repeats": repeats,
        "kernels": kernels.told(),
        "way": whole.way,
        "knots": len(whole.plan.knots_ns),
        "wall_ms": dict(zip(timed, wall_ms, strict=True)),
        "cpu_ms": dict(zip(timed, cpu_ms, strict=True)),
        "load_average": [before, os.getloadavg()],
    }


def _timed(part: Callable[[], object], repeats: int) -> tuple[dict[str, float], dict[str, float]]:
    """Wall and thread time of one part."""
    spent = []
    for _ in range(WARM_UP + repeats):
        cpu_ns = time.thread_time_ns()  # a call into the system, which may take its time: outside of the wall's
        wall_ns = time.perf_counter_ns()
        part()
        wall_ns = time.perf_counter_ns() - wall_ns
        cpu_ns = time.thread_time_ns() - cpu_ns
        spent.append((wall_ns, cpu_ns))
    p50, p99 = np.percentile(spent[WARM_UP:], (50, 99), axis=0) / 1e6
    return tuple({"p50": round(float(p50[i]), 4), "p99": round(float(p99[i]), 4)} for i in range(2))


def report(document: dict[str, Any], console: Console) -> None:
    """Print a document of :func:`bench_splice`."""
    title = f"{document['rows']} rows of {document['joints']} joints, {document['repeats']} times [ms]"
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for column in ("wall p50", "p99", "own time p50", "p99"):
        table.add_column(column, justify="right")
    for part, wall in document["wall_ms"].items():
        own = document["cpu_ms"][part]
        table.add_row(part.replace("_", "-"), *(f"{row[q]:.3f}" for row in (wall, own) for q in ("p50", "p99")))
    console.print(table)
    console.print(f"kernels: {document['kernels']}; load average {document['load_average'][0][0]:.1f}", style="dim")
