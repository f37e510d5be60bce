"""`dreamzero bench bags`: how fast a bag is read, decoded and aligned, and what memory that takes."""

import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from dreamzero_policy.data.bag_benchmark import measure
from dreamzero_policy.runtime.contract import Contract


def bench_bags(
    contract: Contract, minutes: float, rounds: int, folder: Path | None, console: Console
) -> dict[str, Any]:
    """Make bags in a temporary folder, measure, and delete them."""
    with tempfile.TemporaryDirectory(prefix="dreamzero_bags_", dir=folder) as place, console.status("…") as status:
        return measure(Path(place), contract, minutes, rounds, status.update)


def report(document: dict[str, Any], console: Console) -> None:
    table = Table(title=f"a bag of {document['seconds']['short']:.0f} s, three cameras of 640 x 480 at 30 Hz")
    for column in ("", "frames", "wall s", "CPU s", "x real time", "by CPU time"):
        table.add_column(column, justify="left" if not column else "right")
    for name, wall_s in document["wall_s"].items():
        table.add_row(
            name.replace("_", " "),
            str(document["frames"][name]),
            f"{wall_s:.2f}",
            f"{document['cpu_s'][name]:.2f}",
            f"{document['realtime_factor'][name]:.1f}",
            f"{document['realtime_factor_of_a_core'][name]:.1f}",
        )
    console.print(table)
    peaks, seconds = document["peak_mib"], document["seconds"]
    console.print(
        f"all frames {document['all_frames_over_plain']:.2f} x rosbags' own iteration "
        f"({document['all_frames_over_plain_one_thread']:.2f} x in one thread). Peak memory {peaks['short']:.0f} MiB "
        f"over {seconds['short']:.0f} s, {peaks['long']:.0f} MiB over {seconds['long']:.0f} s "
        f"({document['bytes']['long'] / 1e9:.2f} GB). Load {document['load_average'][0]:.1f}",
        highlight=False,
    )
