"""`dreamzero bench model`: what a model costs on this machine.

Of a checkpoint: the time of a robot's chunk, by denoising steps. Of a configuration: what the transformer's verbs cost,
and what every saving saves.
"""

import os
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


def bench_config(
    config_file: Path,
    checkpoint: Path | None,
    threads: int | None,
    dtype: str,
    rounds: int,
    compiled: bool,
    against: str | None,
    console: Console,
) -> dict[str, Any]:
    """Measure the verbs of one configuration; weights are random unless a checkpoint of that configuration is given.

    Raises ValueError for an unknown dtype or an `against` that names no fitting module.
    """
    import torch

    from dreamzero_policy.inference.against import load_module
    from dreamzero_policy.inference.benchmark_subject import random_transformer
    from dreamzero_policy.inference.loading import DTYPES, fastest_dtype, load_policy
    from dreamzero_policy.inference.verb_benchmark import measure_verbs
    from dreamzero_policy.model.config import ModelConfig

    if dtype not in (*DTYPES, "auto"):
        raise ValueError(f"dtype is {dtype!r}, expected one of {[*DTYPES, 'auto']}")
    torch.set_num_threads(threads or len(os.sched_getaffinity(0)))
    config = ModelConfig.from_file(config_file)
    dtype = fastest_dtype("cpu") if dtype == "auto" else dtype
    if checkpoint is None:
        transformer = random_transformer(config, DTYPES[dtype])
    else:
        transformer = load_policy(checkpoint, dtype=dtype, config=config).transformer
    others = {}
    if against is not None:
        others["against"] = load_module(against, config, DTYPES[dtype], transformer.state_dict())
    with console.status(f"{config.variant}, {dtype}, {torch.get_num_threads()} thread(s): {rounds} rounds …"):
        document = measure_verbs(transformer, config, DTYPES[dtype], rounds=rounds, others=others, compiled=compiled)
    weights = "random" if checkpoint is None else str(checkpoint)
    return {"config": str(config_file), "weights": weights, "against": against, **document}


def report_config(document: dict[str, Any], console: Console) -> None:
    """Print a document of :func:`bench_config`."""
    table = Table(
        title=f"{document['variant']}, {document['dtype']}, {document['threads']} thread(s)", title_justify="left"
    )
    table.add_column("")
    table.add_column("ms", justify="right")
    rows = {f"denoise, {past} frames cached": value for past, value in document["denoise_ms"].items()}
    rows |= {f"observe, {past} frames cached": value for past, value in document["observe_ms"].items()}
    for steps, value in document["chunk_ms"].items():
        rows[f"observe and a chunk of {steps} steps ({document['evaluations'][steps]} evaluated)"] = value
    rows["a velocity with the window recomputed"] = document["recompute_ms"]
    rows["keys and values of text"] = document["encode_text_ms"]
    rows["keys and values of image"] = document["encode_image_ms"]
    rows |= {f"autoencoder, {name.replace('_', ' ')}": value for name, value in document["vae_ms"].items()}
    for name, value in rows.items():
        table.add_row(name, f"{value:.1f}")
    console.print(table)
    for name, value in document.items():
        if isinstance(value, float) and (name.endswith("speedup") or name.startswith("cache_growth")):
            console.print(f"{name} {value:.2f}")
    peak = document["matmul_peak_flops_per_s"]
    for name, share in document["share_of_peak"].items():
        console.print(f"{name}: {document['flops'][name] / 1e9:.1f} GFLOP, {share:.0%} of {peak / 1e9:.0f} GFLOP/s")
    for name, row in document["beside"].items():
        console.print(
            f"{name} ({row['dtype']}): {row['denoise_ms']:.1f} ms beside our {row['ours_ms']:.1f} ms, "
            f"x {row['speedup_over_ours']:.2f}, relative difference {row['relative_difference']:.1e}"
        )
    console.print(f"load average {document['load_average'][0]:.1f}", style="dim")


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
        "surprise ms",
        "chunks/s",
    ):
        table.add_column(column, justify="right")
    for row in document["rows"]:
        parts = ("encode", "observe", "denoise", "window", "surprise_window")
        median = {part: f"{row[f'{part}_ms']['p50']:.1f}" if row[f"{part}_ms"] else "–" for part in parts}
        block = row["block_ms"]
        table.add_row(
            str(row["steps"]),
            str(row["evaluations"]),
            median["encode"],
            median["observe"],
            median["denoise"],
            f"{block['p50']:.1f} / {block['p95']:.1f}" if block else "–",
            median["window"],
            median["surprise_window"],
            f"{row['capacity_hz']:.1f}",
        )
    console.print(table)
    first = document["rows"][0]
    console.print(
        f"{first['dtype']} on {first['device']}, {first['threads']} thread(s), guidance {first['cfg_scale']:g}, "
        f"{sum(first['parameters'].values()) / 1e6:.1f} M parameters",
        style="dim",
    )
