"""`dreamzero calibrate`: from bags of normal runs to a checkpoint's surprise.json."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from dreamzero_policy.data.surprises import SurpriseRun, calibration_of
from dreamzero_policy.inference.worker_process import checkpoint_hash
from dreamzero_policy.runtime.calibration import CALIBRATION_FILE, LEVELS, CalibrationError
from dreamzero_policy.runtime.contract import Contract

SHOWN = (50, 90, 95, 99, 99.9, 100)


def run(bags: Sequence[Path], checkpoint: Path, contract: Contract) -> dict[str, Any]:
    """Write the file and give back what is in it.

    Raises:
        EpisodeError: a bag cannot be used, or bags are of several policies.
        CalibrationError: they are of another policy than this checkpoint with this contract, or it cannot be written.
    """
    calibration = calibration_of([SurpriseRun.read(bag) for bag in bags], contract)
    misfit = calibration.misfit(contract.hash, checkpoint_hash(checkpoint), calibration.denoise_steps)
    if misfit:
        raise CalibrationError(f"{misfit.replace(CALIBRATION_FILE, 'the recording')}: name its own with --checkpoint")
    path = checkpoint / CALIBRATION_FILE
    try:
        calibration.save(path)
    except OSError as error:
        raise CalibrationError(f"{path} cannot be written: {error}") from error
    shown = {f"{level:g}": value for level, value in zip(LEVELS, calibration.scores, strict=True) if level in SHOWN}
    return {
        "file": str(path),
        "runs": calibration.runs,
        "blocks": calibration.blocks,
        "denoise_steps": calibration.denoise_steps,
        "regimes": list(calibration.regimes),
        "percentiles": shown,
        "highest_percentile": 100 - 100 / calibration.blocks,
    }


def report(document: dict[str, Any], console: Console) -> None:
    """The result for a person."""
    table = Table(title=f"scores of {document['blocks']} blocks of {document['runs']} runs", title_justify="left")
    for level in document["percentiles"]:
        table.add_column(f"{level} %", justify="right")
    table.add_row(*(f"{value:.2f}" for value in document["percentiles"].values()))
    console.print(table)
    highest = document["highest_percentile"]
    console.print(f"written to {document['file']}; surprise_percentile up to {highest:.1f} can be told", soft_wrap=True)
