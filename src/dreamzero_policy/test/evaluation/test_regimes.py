"""The regimes side by side: what a row says, and that every one of them plays the same episodes."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from dreamzero_policy.cli.main import app
from dreamzero_policy.evaluation.closed_loop import NodeParameters, Played
from dreamzero_policy.evaluation.motion import Motion
from dreamzero_policy.evaluation.regimes import Case, idle, settings_of
from dreamzero_policy.evaluation.stage import Job, Setup, Stage
from dreamzero_policy.runtime.chunk import Chunk
from dreamzero_policy.runtime.observation import Block
from dreamzero_policy.runtime.policy import Reply

MS = 1_000_000


def play(stage: Stage, regime: str, latency_s: float) -> Played:
    node, setup = stage.parameters, stage.setup
    try:
        stage.parameters = replace(node, loop=settings_of(Case(regime, latency_s), node.loop, stage.contract))
        stage.setup = replace(setup, latency_s=latency_s)
        return stage.play(Job("wam-1", "seen", 0))
    finally:
        stage.parameters, stage.setup = node, setup


@pytest.mark.parametrize(
    ("regime", "latency_s"),
    [("two_sessions", 0.15), ("two_sessions_prefix", 0.15), ("look_ahead", 0.6), ("slowed", 1.1)],
)
def test_where_the_arithmetic_allows_none_there_is_no_gap(stage: Stage, regime: str, latency_s: float) -> None:
    played = play(stage, regime, latency_s)
    assert played.chunks >= 3 and not played.rejected
    assert played.motion.idle_fraction(played.end_ns) == pytest.approx(0.0, abs=1e-6)


def test_stop_and_go_stands_still_for_the_latency(stage: Stage) -> None:
    played = play(stage, "stop_and_go", 0.6)
    # 0.6 s and 0.06 s of lead, up to the grid of 30 Hz: 20 of 44 steps; the last cycle is cut off
    assert played.motion.idle_fraction(played.end_ns) == pytest.approx(20 / 44, abs=0.06)


@pytest.mark.parametrize(
    ("regime", "latency_s", "expected"),
    [
        ("stop_and_go", 0.8, 0.5),
        ("two_sessions", 0.4, 0.0),
        ("two_sessions_prefix", 0.6, 1 / 3),
        ("two_sessions", 0.6, 1 / 3),  # 0.4 s of motion, 0.2 s of waiting
        ("look_ahead", 0.8, 0.0),
        ("look_ahead", 1.0, 0.2),
        ("slowed", 1.6, 0.0),
        ("slowed", 2.0, 0.2),  # at half the speed a chunk lasts 1.6 s
    ],
)
def test_idleness_by_arithmetic(regime: str, latency_s: float, expected: float) -> None:
    assert idle(regime, latency_s, 0.8) == pytest.approx(expected)


def chunk(start_ms: int, first_row: int = 0) -> Chunk:
    rows = np.zeros((24, 1))
    block = Block(0, np.zeros((1, 1, 1, 3), np.uint8), rows[0], rows[0], {}, 0, 0.0, 0)
    made = Chunk(
        session="s",
        epoch=1,
        index=0,
        prompt="go",
        block=block,
        reply=Reply(1, rows.astype(np.float32), 1, 1, 0, 1.0),
        positions=rows,
        step_s=1 / 30,
        asked_ns=0,
        answered_ns=0,
        regime="overlap",
        stream=0,
        look_ahead=False,
        anchor=rows[0],
        full_steps=1,
        deadline_s=None,
        first_row=first_row,
    )
    made.start_ns = start_ms * MS
    return made


def test_idle_is_the_time_without_a_row_from_the_first_one_on() -> None:
    motion = Motion()
    assert motion.idle_fraction(10_000 * MS) is None
    motion.add(chunk(1_000))  # until 1.8 s
    motion.add(chunk(2_000))  # until 2.8 s, but the next one takes over
    motion.add(chunk(2_400, first_row=12))  # 12 rows, until 2.8 s
    assert motion.idle_fraction(3_000 * MS) == pytest.approx((0.2 + 0.2) / 2)
    assert motion.idle_fraction(2_600 * MS) == pytest.approx(0.2 / 1.6)
    assert len(motion.seam_position_jumps) == len(motion.seam_jerks) == 3
    assert motion.age_s() == pytest.approx((1.0 + 2.0 + 2.4) / 3)


def test_the_command_plays_every_case_and_prints_rows(setup: Setup, parameters: NodeParameters) -> None:
    options = ["--checkpoint", str(setup.weights["checkpoint"]), "--contract", str(setup.contract)]
    options += ["--parameters", str(setup.parameters), "--world", setup.world, "--latency", "0.15", "--episodes", "1"]
    cases = ["--regime", "stop_and_go", "--regime", "look_ahead", "--steps", "1", "--json"]
    result = CliRunner().invoke(app, ["bench", "regimes", *options, *cases])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert [(row["regime"], row["episodes"], row["latency_s"]) for row in document["rows"]] == [
        ("stop_and_go", 1, 0.15),
        ("look_ahead", 1, 0.15),
    ]
    expected = 0.21 / (0.8 + 0.21)
    for row in document["rows"]:
        assert row["seam_position_jump_rad"] > 0 and row["max_seam_jerk_rad_s3"] > 0
    assert document["rows"][0]["idle_arithmetic"] == pytest.approx(expected)


def test_an_unknown_regime_is_refused_with_those_there_are(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["bench", "regimes", "--regime", "hurry", "--checkpoint", str(tmp_path)])
    assert result.exit_code == 2
    assert "stop_and_go, two_sessions, two_sessions_prefix, look_ahead, slowed" in " ".join(
        result.output.replace("│", " ").split()
    )
