"""`dreamzero bench motion`: the plan against four other executors, at several latencies, in the same episodes."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dreamzero_policy.evaluation.crew import Crew
from dreamzero_policy.evaluation.motion import mean
from dreamzero_policy.evaluation.rehearsal import JITTER, NAMES, PLAN, PLANS, Rehearsal, Rehearsed, rehearse
from dreamzero_policy.evaluation.stage import Setup

BOUND_RAD_S, SHARE_OF_BEST = 0.02, 0.2  # what the plan's seams have to stay below


def bench_motion(
    setup: Setup,
    latencies_s: Sequence[float],
    episodes: int,
    seed: int,
    steps: int,
    processes: int,
    note: Callable[[int, int], None],
    executors: Sequence[str] = NAMES,
) -> dict[str, Any]:
    """Play all episodes and sum up; `note` is told how many of how many are done."""
    todo = [
        Rehearsal(name, latency_s, "seen", number, steps)
        for number in range(seed, seed + episodes)
        for latency_s in latencies_s
        for name in executors
    ]
    done: list[Rehearsed] = []
    with Crew(setup, processes) as crew:
        for _, rehearsed in crew.each(rehearse, todo):
            done.append(rehearsed)
            note(len(done), len(todo))
    rows = [
        row_of([found for found in done if (found.rehearsal.executor, found.rehearsal.latency_s) == (name, latency_s)])
        for latency_s in latencies_s
        for name in executors
    ]
    return {
        "rows": rows,
        "claims": claims(rows, latencies_s),
        "jitter": JITTER,
        "episodes": episodes,
        "seed": seed,
        "steps": steps,
        "world": setup.world,
    }


def row_of(found: Sequence[Rehearsed]) -> dict[str, Any]:
    """One executor at one latency. Jumps of velocity and jerk are the largest of all episodes, the others means.

    `seam_position_jump_rad` is over all seams, and None for an executor that has no plan to be apart from.
    """
    measured = [item.measures for item in found if item.measures is not None]

    def over(name: str, combine: Callable[[list[float]], Any]) -> float | None:
        values = [value for measures in measured if (value := getattr(measures, name)) is not None]
        return float(combine(values)) if values else None

    return {
        "executor": found[0].rehearsal.executor,
        "latency_s": found[0].rehearsal.latency_s,
        "seam_position_jump_rad": mean([jump for item in found for jump in item.seam_position_jumps]),
        "max_seam_velocity_jump_rad_s": over("seam_velocity_jump", max),
        "peak_jerk_rad_s3": over("peak_jerk", max),
        "idle_fraction": over("idle_fraction", np.mean),
        "command_age_s": over("command_age_s", np.mean),
        "tracking_error_rad": over("tracking_error_rad", np.mean),
        "success": float(np.mean([item.success for item in found])),
        "progress": float(np.mean([item.progress for item in found])),
        "chunks": sum(item.chunks for item in found),
        "rejected": sum(item.rejected for item in found),
        "episodes": len(found),
    }


def claims(rows: Sequence[dict[str, Any]], latencies_s: Sequence[float]) -> list[dict[str, Any]]:
    """At every latency: whether the plan's largest jump is within its bound and a share of the best of the others.

    Nothing is claimed where the plan or all others were left out.
    """
    found = []
    for latency_s in latencies_s:
        jumps = {row["executor"]: row["max_seam_velocity_jump_rad_s"] for row in rows if row["latency_s"] == latency_s}
        others = [jump for name, jump in jumps.items() if name not in PLANS and jump is not None]
        if jumps.get(PLAN) is None or not others:
            continue
        bound = min(BOUND_RAD_S, SHARE_OF_BEST * min(others))
        found.append(
            {
                "latency_s": latency_s,
                "plan_rad_s": jumps[PLAN],
                "best_other_rad_s": min(others),
                "bound_rad_s": bound,
                "holds": jumps[PLAN] <= bound,
            }
        )
    return found


def write(document: dict[str, Any], folder: Path) -> None:
    """`motion.json` and the plot `motion.svg`."""
    from dreamzero_policy.evaluation.motion_plot import motion_plot

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "motion.json").write_text(json.dumps(document, indent=1) + "\n")
    (folder / "motion.svg").write_text(motion_plot(document["rows"]))
