"""What is normal, and what follows when something is not."""

import json
from pathlib import Path

import numpy as np
import pytest

from dreamzero_policy.runtime.calibration import Calibration, CalibrationError
from dreamzero_policy.runtime.faults import Fault, Outcome
from dreamzero_policy.runtime.observation import NS_PER_S
from dreamzero_policy.runtime.surprise import HOLD, NONE, WARN, SurpriseSettings, SurpriseWatch

ORIGIN = {
    "contract_hash": "c" * 64,
    "checkpoint_hash": "w" * 64,
    "denoise_steps": 4,
    "regimes": ("stop_and_go",),
    "runs": 3,
}


def calibration(blocks: int = 1001) -> Calibration:
    """Distances spread evenly from 1 to 2."""
    return Calibration.of(np.linspace(1, 2, blocks), **ORIGIN)


class Clock:
    ns = 5 * NS_PER_S

    def __call__(self) -> int:
        return self.ns


def watch(action: str = HOLD, clock: Clock | None = None, **settings: object) -> SurpriseWatch:
    return SurpriseWatch(SurpriseSettings(action, **settings), calibration(), clock or Clock())


def test_a_percentile_is_the_share_of_normal_blocks_that_were_less_surprising() -> None:
    normal = calibration()
    assert [normal.percentile(d) for d in (0.5, 1.0, 1.25, 1.995, 2.0, 9.0)] == pytest.approx(
        [0, 0, 25, 99.5, 100, 100]
    )


def test_a_calibration_is_read_as_it_was_written(tmp_path: Path) -> None:
    calibration().save(tmp_path / "surprise.json")
    assert Calibration.load(tmp_path / "surprise.json") == calibration()
    assert json.loads((tmp_path / "surprise.json").read_text())["percentiles"]["99.9"] == pytest.approx(1.999)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"percentiles": {"0": 1.0}}'])
def test_a_file_that_is_no_calibration_is_refused_with_its_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "surprise.json").write_text(text)
    with pytest.raises(CalibrationError, match=r"surprise\.json is no calibration"):
        Calibration.load(tmp_path / "surprise.json")


def test_levels_that_fall_are_refused(tmp_path: Path) -> None:
    calibration().save(tmp_path / "surprise.json")
    document = json.loads((tmp_path / "surprise.json").read_text())
    document["percentiles"]["50"] = 7.0
    (tmp_path / "surprise.json").write_text(json.dumps(document))
    with pytest.raises(CalibrationError, match="rising"):
        Calibration.load(tmp_path / "surprise.json")


def test_no_distances_are_no_calibration() -> None:
    for distances in ([], [1.0, np.nan]):
        with pytest.raises(CalibrationError, match="distances that are numbers"):
            Calibration.of(distances, **ORIGIN)


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        (("c" * 64, "w" * 64, 4), ""),
        (("d" * 64, "w" * 64, 4), "is of contract cccccccccccc, this policy has dddddddddddd"),
        (("c" * 64, "v" * 64, 4), "is of checkpoint wwwwwwwwwwww, this policy has vvvvvvvvvvvv"),
        (("c" * 64, "w" * 64, 1), "is of denoising steps 4, this policy has 1"),
    ],
)
def test_a_calibration_of_something_else_says_both(policy: tuple[str, str, int], reason: str) -> None:
    assert calibration().misfit(*policy).removeprefix("surprise.json ") == reason


def test_an_action_without_a_calibration_or_with_too_few_blocks_is_refused() -> None:
    for action in (WARN, HOLD):
        with pytest.raises(CalibrationError, match="dreamzero calibrate"):
            SurpriseWatch(SurpriseSettings(action), None)
        with pytest.raises(CalibrationError, match="of 99 blocks, too few for percentile 99"):
            SurpriseWatch(SurpriseSettings(action), calibration(99))
        SurpriseWatch(SurpriseSettings(action), calibration(100))
    SurpriseWatch(SurpriseSettings(NONE), None)


def test_one_block_is_not_enough_and_a_normal_one_begins_the_count_anew() -> None:
    watched = watch(WARN, blocks=2)
    assert [bool(watched.add(d)) for d in (1.999, 1.5, 1.999, 1.2, 1.999)] == [False] * 5
    assert watched.warning == ""
    assert "2 blocks in a row" in watched.add(1.995)
    assert watched.add(1.999) == ""  # said once
    assert watched.warning
    watched.add(1.5)
    assert watched.warning == ""


def test_with_none_numbers_are_told_and_nothing_follows() -> None:
    watched = watch(NONE)
    assert [watched.add(9.0) for _ in range(5)] == [""] * 5
    assert (watched.blocks, watched.distance, watched.percentile) == (5, 9.0, 100.0)
    assert watched.warning == "" and watched.trouble() is None


def test_without_a_calibration_there_is_a_distance_and_no_percentile() -> None:
    watched = SurpriseWatch(SurpriseSettings(), None)
    watched.add(0.3)
    assert (watched.distance, watched.percentile) == (0.3, None)


def test_a_robot_is_held_for_its_time_and_then_looks_anew() -> None:
    clock = Clock()
    watched = watch(HOLD, clock, blocks=2, hold_s=1.5)
    for _ in range(2):
        assert watched.trouble() is None
        watched.add(3.0)
    trouble = watched.trouble()
    assert trouble.fault is Fault.SURPRISE_HELD and trouble.fault.outcome is Outcome.HOLD
    assert "percentile 100.0" in trouble.text and "surprise_percentile is 99" in trouble.text
    clock.ns += round(1.4 * NS_PER_S)
    assert watched.trouble() is not None
    clock.ns += round(0.2 * NS_PER_S)
    assert watched.trouble() is None
    watched.add(3.0)
    assert watched.trouble() is None  # it counts anew


def test_another_instruction_forgets_what_was_seen_under_the_last() -> None:
    watched = watch(HOLD, blocks=2)
    watched.add(3.0)
    watched.forget()
    watched.add(3.0)
    assert watched.trouble() is None
    watched.add(3.0)
    assert watched.trouble() is not None
    watched.forget()
    assert watched.trouble() is None
