"""The latency protocol: stages that add up, and histograms of them."""

from dataclasses import replace

import numpy as np
import pytest

from dreamzero_policy.runtime.chunk import Chunk, Verdict
from dreamzero_policy.runtime.latency import STAGES, STAGES_TO_ANSWER, Histogram, LatencyRecord, stages_s
from dreamzero_policy.runtime.observation import Block
from dreamzero_policy.runtime.policy import Reply

MS = 1_000_000
TIMINGS_S = {"prompt": 0.0, "encode": 0.010, "observe": 0.005, "denoise": 0.080, "model": 0.100}


def chunk(executed: bool = True) -> Chunk:
    """Observed at 1 s, asked 20 ms later, answered 105 ms after that, first point 52 ms and first row 75 ms later."""
    block = Block(1_000 * MS, np.zeros((8, 4, 4, 3), np.uint8), np.zeros(2), np.zeros(2), {}, 1_000 * MS, 0.004, 0)
    reply = Reply(1, np.zeros((24, 2), np.float32), 4, 4, 7, 1.0, TIMINGS_S)
    rows = np.zeros((24, 2))
    made = Chunk(
        session="s",
        epoch=1,
        index=0,
        prompt="go",
        block=block,
        reply=reply,
        positions=rows,
        step_s=1 / 30,
        asked_ns=1_020 * MS,
        answered_ns=1_125 * MS,
        regime="overlap",
        stream=1,
        look_ahead=False,
        anchor=rows[0],
        full_steps=4,
        deadline_s=None,
        first_row=5,
    )
    if executed:
        made.observation_to_command_s, made.start_ns = 0.177, 1_200 * MS
    else:
        made.verdict = Verdict.REJECTED_STEP
    return made


def test_the_stages_add_up_to_the_first_commanded_point() -> None:
    stages = stages_s(chunk())
    assert stages == pytest.approx(
        {"request": 0.020, "handover": 0.005, "model": 0.100, "encode": 0.010, "observe": 0.005, "imagine": 0.0}
        | {"denoise": 0.080, "command": 0.052, "observation_to_command": 0.177, "observation_to_row": 0.200}
    )
    assert tuple(stages) == STAGES
    parts = sum(stages[stage] for stage in ("request", "handover", "model", "command"))
    assert parts == pytest.approx(stages["observation_to_command"])


def test_the_usual_time_of_an_answer_is_the_slowest_of_the_last_eight_blocks() -> None:
    record = LatencyRecord()
    opening = chunk()
    opening.block = replace(opening.block, canvas=opening.block.canvas[:1])
    record.add(opening)  # waited for its prompt
    assert record.answer_s is None
    for answer_ms in (300, 200, *[105] * 7):
        made = chunk()
        made.answered_ns = made.asked_ns + answer_ms * MS
        record.add(made)
    assert record.answer_s == pytest.approx(0.2)  # nine answers: the first is forgotten


def test_a_chunk_that_is_not_executed_has_no_stage_behind_its_answer() -> None:
    assert tuple(stages_s(chunk(executed=False))) == STAGES_TO_ANSWER


def test_durations_are_counted_up_to_the_edges() -> None:
    histogram = Histogram()
    for seconds in (0.0, 0.001, 0.0011, 0.1, 5.0, 5.1):
        histogram.add(seconds)
    assert str(histogram) == "<=1:2 <=2:1 <=100:1 <=5000:1 >5000:1"


def test_the_record_counts_every_stage_of_every_chunk() -> None:
    record = LatencyRecord()
    record.add(chunk())
    record.add(chunk(executed=False))
    assert str(record.histograms["denoise"]) == "<=100:2"
    assert str(record.histograms["command"]) == "<=100:1"


def test_a_frame_predicted_with_rows_is_due_when_their_steps_are() -> None:
    joined = chunk()
    assert joined.instant_ns(5) == 1_200 * MS  # its first executed row
    assert joined.instant_ns(24) == 1_200 * MS + round(19e9 / 30)
