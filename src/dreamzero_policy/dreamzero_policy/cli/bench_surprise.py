"""`dreamzero bench surprise`: false alarms, and what is noticed when something happens in the twin."""

from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from dreamzero_policy.cli.share import shipped_contract_path, shipped_parameters_path
from dreamzero_policy.evaluation.stage import Setup, Stage
from dreamzero_policy.evaluation.surprising import Plan, Told, try_out
from dreamzero_policy.inference.worker_process import checkpoint_hash
from dreamzero_policy.runtime.calibration import distance


def bench_surprise(
    checkpoint: Path, contract: Path | None, parameters: Path | None, world: str, plan: Plan, console: Console
) -> dict[str, Any]:
    """Play and count, in one process. Raises what `try_out` and the stage raise."""
    setup = Setup(
        world=world,
        contract=contract or shipped_contract_path(),
        parameters=parameters or shipped_parameters_path(),
        weights={"checkpoint": checkpoint},
    )
    stage, done = Stage(setup), count(1)

    def notice(told: Told) -> None:
        largest = f"largest distance {max(map(distance, told.cells), default=0.0):.3f}"
        line = f"episode {next(done)}: seed {told.seed}, {told.happened}: {len(told.cells)} blocks, {largest}"
        console.print(line, style="dim", highlight=False)

    try:
        document = try_out(stage, plan, notice)
    finally:
        stage.close()
    return {**asdict(plan), "checkpoint_hash": checkpoint_hash(checkpoint), **document}


def report(document: dict[str, Any], console: Console) -> None:
    """The result for a person."""
    table = Table(title=f"calibrated by {document['normal_blocks']} normal blocks", title_justify="left")
    for column in ("what happens", "percentile", "blocks", "noticed", "median s", "alarms of the undisturbed twins"):
        table.add_column(column, justify="left" if column == "what happens" else "right")
    for row in document["rows"]:
        table.add_row(
            row["disturbance"],
            f"{row['percentile']:g}",
            str(row["blocks"]),
            f"{row['detected']} of {row['episodes']}",
            "–" if row["median_delay_s"] is None else f"{row['median_delay_s']:.2f}",
            str(row["undisturbed_alarms"]),
        )
    for row in document["false_alarms"]:
        table.add_row(
            "nothing",
            f"{row['percentile']:g}",
            str(row["blocks"]),
            f"{row['alarms']} alarms in {row['episodes_with_alarm']} of {row['episodes']} episodes",
        )
    console.print(table)
    for one in document["separation"]:
        console.print(
            f"{one['disturbance']}: a disturbed episode scores higher than an undisturbed one in "
            f"{_share(one['by_score'])} of {one['episodes']} x {one['undisturbed']} pairs "
            f"(by distance alone {_share(one['by_distance'])}; chance is 50 %)",
            highlight=False,
        )


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f} %"
