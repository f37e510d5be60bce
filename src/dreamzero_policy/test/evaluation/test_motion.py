"""Motion where chunks meet: what is measured, how other executors act, and a whole comparison."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from dreamzero_policy.cli.main import app
from dreamzero_policy.evaluation.command_stream import SAMPLE_NS, Record, measure
from dreamzero_policy.evaluation.executors import EXECUTORS, Executor
from dreamzero_policy.evaluation.motion_bench import bench_motion, claims, write
from dreamzero_policy.evaluation.rehearsal import NAMES, OVERLAPPING, PLAN
from dreamzero_policy.evaluation.stage import Setup

STEP_NS = 40_000_000
TELLING = f"{Path(__file__).with_name('fake_suite.py')}:TellingSuite"


def record(command, seams_ns=(500_000_000,), source_ns: int | None = 0) -> Record:
    """A second of one joint's command, a function of the time in s, which the joint follows exactly."""
    stamps = [SAMPLE_NS * i for i in range(100)]
    rows = [np.array([command(stamp / 1e9)]) for stamp in stamps]
    return Record(stamps, rows, rows, [source_ns] * 100, list(seams_ns))


def judged(found: Record, acceleration: float = 10.0):
    return measure(found, np.array([acceleration]), np.array([0]))


def test_a_kink_at_a_seam_is_a_jump_beyond_what_the_limits_allow_in_a_sample():
    motion = judged(record(lambda t: max(0.0, t - 0.5)))  # from rest to 1 rad/s within one sample
    assert motion.seam_velocity_jump == pytest.approx(1.0 - 10.0 * 0.01)
    assert motion.peak_jerk == pytest.approx(1.0 / 0.01**2)


def test_a_kink_elsewhere_is_no_jump_at_a_seam_and_a_smooth_motion_has_none():
    assert judged(record(lambda t: max(0.0, t - 0.5), seams_ns=(100_000_000,))).seam_velocity_jump == 0
    smooth = judged(record(lambda t: 0.5 * 8.0 * t * t))  # 8 rad/s², allowed are 10
    assert smooth.seam_velocity_jump == 0 and smooth.peak_jerk == pytest.approx(0, abs=1e-6)
    assert judged(record(lambda t: 0.5 * 12.0 * t * t)).seam_velocity_jump == pytest.approx(0.02)


def test_idle_time_and_age_count_from_the_first_seam():
    found = record(lambda t: 0.0, seams_ns=(200_000_000,))
    found.sources_ns = [None] * 60 + [400_000_000] * 40  # idle from 0.2 to 0.6 s, then an observation of 0.4 s commands
    motion = judged(found)
    assert motion.idle_fraction == pytest.approx(0.5)
    assert motion.command_age_s == pytest.approx(np.mean(np.arange(0.6, 1.0, 0.01)) - 0.4)


def test_tracking_is_measured_minus_commanded_without_grippers():
    found = record(lambda t: 0.0)
    found.commanded = [np.zeros(2)] * 100
    found.measured = [np.array([0.03, 9.0])] * 100
    assert measure(found, np.full(2, 10.0), np.array([0])).tracking_error_rad == pytest.approx(0.03)


def test_too_little_to_judge_is_an_error():
    with pytest.raises(ValueError, match="100 samples and 0 seams"):
        judged(record(lambda t: 0.0, seams_ns=()))


def rows(value: float) -> np.ndarray:
    """Five rows of one joint: value, value + 1, …"""
    return value + np.arange(5.0)[:, None]


def sent(executor: Executor, now_ns: int) -> list[float]:
    points = executor.tick(now_ns)
    return [] if points is None else points.positions[:, 0].tolist()


def test_single_point_sends_row_after_row_a_step_ahead():
    executor = EXECUTORS["single_point"](STEP_NS)
    first = executor.take(rows(10), 0, 1_000_000_000)
    assert first.stamps_ns.tolist() == [1_000_000_000 + STEP_NS] and first.positions.tolist() == [[10.0]]
    assert [sent(executor, 1_000_000_000 + k * STEP_NS) for k in range(1, 6)] == [[11], [12], [13], [14], []]
    assert executor.source(1_000_000_000 + STEP_NS) == 0 and executor.source(1_000_000_000 + 5 * STEP_NS) is None
    assert executor.end_ns() == 1_000_000_000 + 5 * STEP_NS


def test_a_broker_sends_the_chunk_whole_from_its_arrival():
    executor = EXECUTORS["broker"](STEP_NS)
    points = executor.take(rows(10), 0, 1_000_000_000)
    assert points.stamps_ns.tolist() == [1_000_000_000 + k * STEP_NS for k in range(1, 6)]
    assert points.positions[:, 0].tolist() == [10, 11, 12, 13, 14] and sent(executor, 1_000_000_000 + STEP_NS) == []


def test_overlapping_chunks_meet_by_the_time_of_their_rows():
    newest, mean = EXECUTORS["newest_wins"](STEP_NS), EXECUTORS["weighted_average"](STEP_NS)
    for executor in (newest, mean):
        assert executor.take(rows(0), 0, STEP_NS) is None
        executor.take(rows(100), 2 * STEP_NS, 2 * STEP_NS)
    # a step after 2 steps: row 3 of the first chunk, row 1 of the second
    assert sent(newest, 2 * STEP_NS) == [101.0]
    assert sent(mean, 2 * STEP_NS) == [pytest.approx((3 + np.exp(-0.01) * 101) / (1 + np.exp(-0.01)))]
    assert sent(newest, 6 * STEP_NS) == [] and newest.source(4 * STEP_NS) == 2 * STEP_NS
    assert newest.source(7 * STEP_NS) is None and newest.always_asks


def test_all_executors_are_compared_in_the_same_episodes(setup: Setup, tmp_path):
    setup = Setup(TELLING, setup.contract, setup.parameters, setup.weights)
    told = []
    document = bench_motion(setup, (0.15, 1.1), 1, 0, 2, 1, lambda done, total: told.append((done, total)))
    rows = {(row["executor"], row["latency_s"]): row for row in document["rows"]}
    assert set(rows) == {(name, latency) for name in NAMES for latency in (0.15, 1.1)}
    assert told == [(n + 1, 10) for n in range(10)]
    assert all(row["chunks"] > 1 and row["episodes"] == 1 for row in rows.values())
    # a chunk of 0.8 s waits for the next: nothing is due for 1.1 of every 1.9 s, whoever executes it
    assert rows["broker", 1.1]["idle_fraction"] == pytest.approx(1.1 / 1.9, abs=0.15)
    # rows laid by the time of their observation are over before they come
    assert rows["newest_wins", 1.1]["idle_fraction"] == 1 and rows["newest_wins", 1.1]["command_age_s"] is None
    assert 0.15 < rows["newest_wins", 0.15]["command_age_s"] < rows["broker", 1.1]["command_age_s"]
    assert rows[PLAN, 0.15]["max_seam_velocity_jump_rad_s"] <= 0.02
    write(document, tmp_path)
    assert json.loads((tmp_path / "motion.json").read_text()) == document
    assert (tmp_path / "motion.svg").read_text().startswith("<svg")


def test_the_plan_is_compared_with_a_prefix_and_without_in_the_same_episodes(setup: Setup, tmp_path):
    setup = Setup(TELLING, setup.contract, setup.parameters, setup.weights)
    document = bench_motion(setup, (0.15,), 1, 0, 2, 1, lambda *_: None, (*OVERLAPPING, "broker"))
    rows = {row["executor"]: row for row in document["rows"]}
    assert set(rows) == {*OVERLAPPING, "broker"}
    for name in OVERLAPPING:
        assert rows[name]["chunks"] > 4 and not rows[name]["rejected"]
        assert rows[name]["idle_fraction"] == 0  # an answer takes less than half a chunk
    assert len({rows[name]["seam_position_jump_rad"] for name in OVERLAPPING}) == 3
    assert rows["broker"]["seam_position_jump_rad"] is None
    assert document["claims"] == []  # the plan in stop_and_go was left out
    write(document, tmp_path)


def test_an_unknown_executor_is_refused_with_those_there_are(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["bench", "motion", "--executor", "hurry", "--out", str(tmp_path)])
    assert result.exit_code == 2
    assert "no executor 'hurry'; expected plan, single_point" in " ".join(result.output.replace("│", " ").split())


def test_the_claim_needs_both_the_share_of_the_best_and_the_absolute_bound():
    def row(name: str, jump: float) -> dict:
        return {"executor": name, "latency_s": 0.6, "max_seam_velocity_jump_rad_s": jump}

    (claim,) = claims([row("plan", 0.01), row("broker", 0.2), row("newest_wins", 0.06)], [0.6])
    assert claim["best_other_rad_s"] == 0.06 and claim["bound_rad_s"] == pytest.approx(0.012) and claim["holds"]
    (claim,) = claims([row("plan", 0.03), row("broker", 0.5)], [0.6])
    assert claim["bound_rad_s"] == 0.02 and not claim["holds"]
