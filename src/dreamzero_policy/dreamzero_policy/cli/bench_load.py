"""`dreamzero bench load`: what loading a checkpoint costs on this machine."""

import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from dreamzero_policy.cli.share import model_variants

GIB = 1 << 30


def bench_load(gigabytes: float, repeats: int, folder: Path | None, console: Console) -> dict[str, Any]:
    """Write a random checkpoint into a temporary folder, measure, remove it."""
    from dreamzero_policy.inference.load_benchmark import measure, write_random
    from dreamzero_policy.model.config import ModelConfig

    template = ModelConfig.from_file(model_variants()["medium"])
    with tempfile.TemporaryDirectory(prefix="dreamzero_load_", dir=folder) as name:
        checkpoint = Path(name) / "checkpoint"
        with console.status(f"writing {gigabytes:g} GB of random weights …"):
            write_random(template, gigabytes, checkpoint)
        with console.status("loading …"):
            return measure(checkpoint, repeats)


def report(document: dict[str, Any], console: Console) -> None:
    """Print a document of :func:`bench_load`."""
    size = document["weight_bytes"] / GIB
    title = f"Loading {size:.2f} GiB in {document['tensors']} tensors and reading every byte"
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for column in ("median s", "first s", "peak RSS / weights", "anonymous / weights"):
        table.add_column(column, justify="right")
    for name in ("dreamzero", "safetensors"):
        row = document[name]
        memory = (f"{row[part] / document['weight_bytes']:.3f}" for part in ("peak_rss", "anonymous"))
        table.add_row(name, f"{row['seconds']:.3f}", f"{row['first_seconds']:.3f}", *memory)
    console.print(table)
    console.print(f"time ratio {document['time_ratio']:.2f}")
