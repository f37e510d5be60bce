"""summary.json says what was measured, and null where nothing was."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dreamzero_policy.cli.main import app
from dreamzero_policy.cli.summary import RunRecord, write_summary


def test_percentiles_and_rates_are_those_of_the_run(tmp_path: Path) -> None:
    record = RunRecord(
        seconds=10.0,
        chunks=8,
        model_s=[0.08, 0.1, 0.12],
        overhead_s=[0.004] * 3,
        regime_seconds={"stop_and_go": 9.5},
        seam_velocity_jumps=[0.0, 0.25],
        stages_s={"denoise": [0.05, 0.0501, 7.0]},
    )
    record.rejected["rejected_velocity"] = 2
    summary = record.summary()
    assert summary["chunk_rate_hz"] == 0.8
    assert summary["capacity_hz"] == pytest.approx(10.0)
    assert summary["model_ms"] == {"p50": 100.0, "p95": 118.0}
    assert summary["overhead_ms"]["p95"] == 4.0
    assert summary["histogram_edges_ms"][5:7] == [50, 100]
    assert summary["stages_ms"]["denoise"]["p50"] == 50.1
    assert summary["stages_ms"]["denoise"]["histogram"] == [0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 1]
    assert summary["rejected_chunks"] == {"rejected_velocity": 2}
    assert summary["max_seam_velocity_jump_rad_s"] == 0.25
    write_summary(summary, tmp_path / "summary.json")
    assert json.loads((tmp_path / "summary.json").read_text()) == summary


def test_a_run_without_chunks_has_nulls_instead_of_numbers() -> None:
    summary = RunRecord(seconds=3.0).summary()
    assert summary["capacity_hz"] is None and summary["model_ms"] == {"p50": None, "p95": None}
    assert summary["chunks"] == 0 and summary["max_seam_velocity_jump_rad_s"] is None


@pytest.mark.parametrize("arguments", [["--help"], ["demo", "--help"], ["bench", "model", "--help"]])
def test_every_command_explains_itself(arguments: list[str]) -> None:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0 and "Usage" in result.output


def test_a_folder_in_use_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    result = CliRunner().invoke(app, ["demo", "--out", str(tmp_path)])
    assert result.exit_code == 1 and "is not empty" in " ".join(result.output.split())
    assert (tmp_path / "notes.txt").read_text() == "mine"
