"""`dreamzero bench regimes`: stop_and_go, both ways of overlap and slowed playback over the same episodes."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path
from typing import Any

from ament_index_python.packages import get_package_share_directory
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from dreamzero_policy.cli.share import sampler_steps, shipped_checkpoint
from dreamzero_policy.evaluation.closed_loop import Played
from dreamzero_policy.evaluation.regimes import CASES, Case, Episodes, compare
from dreamzero_policy.evaluation.stage import Job, Setup
from dreamzero_policy.inference.worker_process import checkpoint_hash

COLUMNS = (  # heading, key, format, factor
    ("suc-\ncess", "success", "{:.0%}", 1),
    ("prog-\nress", "progress", "{:.2f}", 1),
    ("idle", "idle_fraction", "{:.0%}", 1),
    ("at\nbest", "idle_arithmetic", "{:.0%}", 1),
    ("apart\nmrad", "seam_position_jump_rad", "{:.1f}", 1e3),
    ("jump\nrad/s", "max_seam_velocity_jump_rad_s", "{:.3f}", 1),
    ("jerk\nrad/s³", "max_seam_jerk_rad_s3", "{:.0f}", 1),
    ("age\ns", "observation_to_row_s", "{:.2f}", 1),
)


def bench_regimes(
    checkpoint: Path | None,
    contract: Path | None,
    parameters: Path | None,
    latencies_s: Sequence[float],
    regimes: Sequence[str],
    episodes: Episodes,
    world: str,
    console: Console,
) -> dict[str, Any]:
    """Play every episode in every case, in one process.

    Raises ValueError for an unknown regime; SuiteError, CheckpointError, ContractError, ParametersError: see there.
    """
    if unknown := set(regimes) - set(CASES):
        raise ValueError(f"no regime {sorted(unknown)[0]!r}; expected {', '.join(CASES)}")
    if not episodes.steps:
        episodes = replace(episodes, steps=sampler_steps(checkpoint))
    share = Path(get_package_share_directory("dreamzero"))
    folder = checkpoint or shipped_checkpoint()
    setup = Setup(
        world=world,
        contract=contract or share / "config" / "agibot_g1.yaml",
        parameters=parameters or share / "config" / "policy.yaml",
        weights={"checkpoint": folder},
    )
    cases = [Case(regime, latency_s) for latency_s in latencies_s for regime in regimes]
    done = count(1)

    def notice(case: Case, job: Job, played: Played) -> None:
        where = f"{case.regime} at {case.latency_s:g} s, seed {job.seed}"
        what = f"progress {played.outcome.progress:.2f}, {played.end}"
        console.print(f"{next(done)} of {len(cases) * episodes.count}: {where}: {what}", style="dim")

    rows = compare(setup, cases, episodes, notice)
    return {**asdict(episodes), "checkpoint_hash": checkpoint_hash(folder), "rows": rows}


def report(document: dict[str, Any], console: Console) -> None:
    """Print a document of :func:`bench_regimes`."""
    table = Table(
        title=f"{document['count']} {document['split']} episodes, {document['steps']} steps",
        title_justify="left",
        box=SIMPLE,
        padding=0,
    )
    table.add_column("s", justify="right", no_wrap=True)
    table.add_column("regime", no_wrap=True)
    for title, *_ in COLUMNS:
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("re-\njected", justify="right", no_wrap=True)
    for row in document["rows"]:
        values = ["–" if row[key] is None else form.format(factor * row[key]) for _, key, form, factor in COLUMNS]
        rejected = f"{row['rejected']}/{row['chunks']}"
        table.add_row(f"{row['latency_s']:g}", row["regime"], *values, rejected)
    console.print(table)
