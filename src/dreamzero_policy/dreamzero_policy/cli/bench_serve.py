"""`dreamzero bench serve`: sessions held, the cost of the way over a socket, memory per session."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


def bench_serve(
    checkpoint: Path,
    counts: Sequence[int],
    asked: int | None,
    threads: int,
    seconds: float,
    chunks: int,
    console: Console,
) -> dict[str, Any]:
    """Start a server, ask the three questions, stop it. Raises ServerFailed."""
    from dreamzero_policy.inference.server import benchmark
    from dreamzero_policy.model.source import open_source

    steps = open_source(checkpoint).config.sampler.steps if asked is None else asked
    with benchmark.serving(checkpoint, threads, steps) as server:
        document: dict[str, Any] = {"checkpoint": str(checkpoint), "steps": steps, "threads": threads}
        document["period_s"] = server.period_s
        with console.status("one robot, here and there …"):
            document["one_robot"] = asyncio.run(benchmark.one_robot(server, checkpoint, threads, steps, chunks))
        with console.status("memory …"):
            document["memory"] = asyncio.run(benchmark.memory(server, 50, steps))
        with console.status("more and more robots …"):
            document["held"] = asyncio.run(benchmark.held(server, counts, steps, seconds))
    with console.status("together …"):
        document["batching"] = benchmark.batching(checkpoint, threads, steps, (2, 4, 8), 15)
    return document


def report(document: dict[str, Any], console: Console) -> None:
    """Print a document of :func:`bench_serve`."""
    one, memory = document["one_robot"], document["memory"]
    table = Table(title=f"One robot: block to chunk, {one['chunks']} chunks in turn [ms]", title_justify="left")
    for column in ("", "p50", "p95", "p99", "added p50", "kB a block"):
        table.add_column(column, justify="left" if not column else "right")
    rows = {"own process": one["local_ms"], **{f"served, {name}": ms for name, ms in one["remote_ms"].items()}}
    for name, ms in rows.items():
        encoding = name.removeprefix("served, ")
        added = one["added_p50_ms"].get(encoding)
        size = one["block_bytes"].get(encoding)
        extra = ("", "") if added is None else (f"{added:+.1f}", f"{size / 1e3:.0f}")
        table.add_row(name, *(f"{ms[part]:.1f}" for part in ("p50", "p95", "p99")), *extra)
    console.print(table)
    console.print(f"lossless frames: actions {'equal bit for bit' if one['bit_identical'] else 'DIFFER'}")
    table = Table(title=f"Robots that ask every {document['period_s']:g} s, block to chunk [ms]", title_justify="left")
    for column in ("sessions", "chunks/s", "p50", "p95", "p99", "late"):
        table.add_column(column, justify="right")
    for row in document["held"]:
        if "refused" in row:
            console.print(table)
            console.print(f"{row['sessions']} sessions: {row['refused']}", soft_wrap=True)
            break
        ms = row["answer_ms"]
        parts = (f"{ms[part]:.0f}" for part in ("p50", "p95", "p99"))
        table.add_row(str(row["sessions"]), f"{row['chunks_hz']:.1f}", *parts, str(row["late"]))
    else:
        console.print(table)
    console.print(
        f"{memory['sessions']} idle sessions: {memory['session_mb']:.2f} MB each, {memory['stated_mb']:.2f} MB stated"
    )
    table = Table(title="Chunks denoised one after another, and in one batch [ms]", title_justify="left")
    for column in ("chunks", "alone", "together", "gain", "largest difference"):
        table.add_column(column, justify="right")
    for row in document["batching"]:
        ms = (f"{row[part]:.1f}" for part in ("alone_ms", "together_ms"))
        table.add_row(str(row["chunks"]), *ms, f"{row['gain']:.2f}", f"{row['largest_difference']:.1e}")
    console.print(table)
