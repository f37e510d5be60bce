"""`dreamzero bench motion`: what the plan is like where chunks meet, beside four other executors."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ament_index_python.packages import get_package_share_directory
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from dreamzero_policy.cli.share import sampler_steps, shipped_checkpoint
from dreamzero_policy.evaluation import motion_bench as room
from dreamzero_policy.evaluation.stage import Setup

LINE_S = 10.0  # between two lines of progress where there is no terminal
COLUMNS = (  # heading, key, format, factor
    ("apart\nmrad", "seam_position_jump_rad", "{:.1f}", 1e3),
    ("jump\nrad/s", "max_seam_velocity_jump_rad_s", "{:.3f}", 1),
    ("jerk\nrad/s³", "peak_jerk_rad_s3", "{:.0f}", 1),
    ("idle", "idle_fraction", "{:.0%}", 1),
    ("age\ns", "command_age_s", "{:.2f}", 1),
    ("track\nmrad", "tracking_error_rad", "{:.1f}", 1e3),
    ("prog-\nress", "progress", "{:.2f}", 1),
    ("suc-\ncess", "success", "{:.0%}", 1),
)


def bench_motion(
    checkpoint: Path | None,
    latencies_s: list[float],
    episodes: int,
    seed: int,
    steps: int | None,
    executors: Sequence[str],
    processes: int,
    world: str,
    folder: Path,
    console: Console,
) -> dict[str, Any]:
    """Measure, and write `motion.json` and `motion.svg` into the folder."""
    share = Path(get_package_share_directory("dreamzero"))
    setup = Setup(
        world=world,
        contract=share / "config" / "agibot_g1.yaml",
        parameters=share / "config" / "policy.yaml",
        weights={"checkpoint": checkpoint or shipped_checkpoint()},
    )
    began, told = time.monotonic(), 0.0
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("episodes", total=None)

        def note(done: int, total: int) -> None:
            nonlocal told
            progress.update(bar, completed=done, total=total)
            now = time.monotonic()
            if not console.is_terminal and (now - told > LINE_S or done == total):
                told, left = now, (now - began) / done * (total - done) / 60
                console.print(f"{done} of {total} episodes, {left:.1f} min left")

        steps = steps or sampler_steps(checkpoint)
        document = room.bench_motion(setup, latencies_s, episodes, seed, steps, processes, note, executors)
    room.write(document, folder)
    return document


def report(document: dict[str, Any], folder: Path, console: Console) -> None:
    """The result for a person."""
    table = Table(
        title="executors by latency of an answer: the same model and episodes",
        title_justify="left",
        box=SIMPLE,
        padding=(0, 1, 0, 0),
    )
    table.add_column("s", justify="right", no_wrap=True)
    table.add_column("executor", no_wrap=True)
    for title, *_ in COLUMNS:
        table.add_column(title, justify="right", no_wrap=True)
    for row in document["rows"]:
        values = ["–" if row[key] is None else form.format(factor * row[key]) for _, key, form, factor in COLUMNS]
        table.add_row(f"{row['latency_s']:g}", row["executor"], *values)
    console.print(table)
    for claim in document["claims"]:
        verdict = "holds" if claim["holds"] else "does NOT hold"
        console.print(
            f"at {claim['latency_s']:g} s: the plan's largest jump {claim['plan_rad_s']:.4f} rad/s is to be at most "
            f"{claim['bound_rad_s']:.4f} (the best other: {claim['best_other_rad_s']:.3f}): {verdict}",
            highlight=False,
        )
    console.print(f"{folder / 'motion.svg'}", style="dim")
