"""`dreamzero bench model`: how long a checkpoint takes for a chunk on this machine, by denoising steps."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


def bench_model(
    checkpoint: Path, steps: list[int], threads: int, dtype: str, blocks: int, console: Console
) -> dict[str, Any]:
    """Measure one checkpoint at several step counts, one after the other in one run."""
    from dreamzero_policy.inference.benchmark import measure
    from dreamzero_policy.inference.loading import load_policy

    policy = load_policy(checkpoint, dtype=dtype, threads=threads)
    rows = []
    for count in steps:
        with console.status(f"{count} steps: {blocks} blocks …"):
            rows.append(measure(policy, steps=count, blocks=blocks))
    return {"checkpoint": str(checkpoint), "rows": rows}


def report(document: dict[str, Any], console: Console) -> None:
    table = Table(title=f"{document['checkpoint']}", title_justify="left")
    for column in (
        "steps",
        "evaluations",
        "encode ms",
        "observe ms",
        "denoise ms",
        "block p50 / p95 ms",
        "window ms",
        "chunks/s",
    ):
        table.add_column(column, justify="right")
    for row in document["rows"]:
        median = {part: f"{row[f'{part}_ms']['p50']:.1f}" for part in ("encode", "observe", "denoise", "window")}
        table.add_row(
            str(row["steps"]),
            str(row["evaluations"]),
            median["encode"],
            median["observe"],
            median["denoise"],
            f"{row['block_ms']['p50']:.1f} / {row['block_ms']['p95']:.1f}",
            median["window"],
            f"{row['capacity_hz']:.1f}",
        )
    console.print(table)
    first = document["rows"][0]
    console.print(
        f"{first['dtype']} on {first['device']}, {first['threads']} thread(s), guidance {first['cfg_scale']:g}, "
        f"{sum(first['parameters'].values()) / 1e6:.1f} M parameters",
        style="dim",
    )
