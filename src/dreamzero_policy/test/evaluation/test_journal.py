"""The journal: nothing is lost, nothing is mixed up."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from dreamzero_policy.evaluation.journal import Journal, JournalError
from dreamzero_policy.evaluation.stage import Job, Result

CONDITIONS = {"latency_s": 0.15, "node": {"blend_s": (0.2, 0.35)}}
JOBS = [Job("wam-4", "seen", seed) for seed in range(4)]
HASHES = {"wam-4": "0" * 64}


def test_an_interrupted_evaluation_goes_on_with_what_is_missing(
    tmp_path: Path, result_of: Callable[..., Result]
) -> None:
    with Journal(tmp_path, CONDITIONS) as journal:
        for seed in (0, 2):
            journal.add(result_of("wam-4", seed, 0.5, rejected={"velocity": 2}))
    with Journal(tmp_path, CONDITIONS) as journal:
        assert journal.missing(JOBS, HASHES) == [JOBS[1], JOBS[3]]
        assert journal.results[JOBS[2]] == result_of("wam-4", 2, 0.5, rejected={"velocity": 2})


def test_a_line_cut_off_by_a_crash_is_dropped_and_played_again(
    tmp_path: Path, result_of: Callable[..., Result]
) -> None:
    with Journal(tmp_path, CONDITIONS) as journal:
        journal.add(result_of("wam-4", 0, 0.5))
        journal.add(result_of("wam-4", 1, 0.5))
    path = tmp_path / "episodes.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    with Journal(tmp_path, CONDITIONS) as journal:
        assert journal.missing(JOBS[:2], HASHES) == [JOBS[1]]
        journal.add(result_of("wam-4", 1, 0.5))
    assert [json.loads(line)["seed"] for line in path.read_text().splitlines()] == [0, 1]


def test_other_conditions_are_refused_with_both_values(tmp_path: Path) -> None:
    with Journal(tmp_path, CONDITIONS):
        pass
    with pytest.raises(JournalError, match=r"latency_s: 0\.15 \| 0\.3"):
        Journal(tmp_path, {**CONDITIONS, "latency_s": 0.3})


def test_other_weights_under_the_same_name_are_refused(tmp_path: Path, result_of: Callable[..., Result]) -> None:
    with Journal(tmp_path, CONDITIONS) as journal:
        journal.add(result_of("wam-4", 0, 0.5))
        with pytest.raises(JournalError, match="of checkpoint 000000000000, asked is 111111111111"):
            journal.missing(JOBS, {"wam-4": "1" * 64})


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "episodes.jsonl").write_text('{"method": "wam-4"}\n')
    with pytest.raises(JournalError, match="line 1 is no result"):
        Journal(tmp_path, CONDITIONS)
