"""What is normal, and what follows when something is not."""

import json
from pathlib import Path

import numpy as np
import pytest

from dreamzero_policy.runtime.calibration import Calibration, CalibrationError, distance
from dreamzero_policy.runtime.faults import Fault, Outcome
from dreamzero_policy.runtime.observation import NS_PER_S
from dreamzero_policy.runtime.surprise import HOLD, NONE, WARN, SurpriseSettings, SurpriseWatch

ORIGIN = {
    "contract_hash": "c" * 64,
    "checkpoint_hash": "w" * 64,
    "denoise_steps": 4,
    "regimes": ("stop_and_go",),
}
SHAPE = (2, 4, 4)
CAMERAS = np.repeat([[0, 0, 0, -1], [1, 1, 1, 1]], 2, axis=0)  # of the cells [h, w]


def some_blocks(count: int, seed: int = 0) -> list[np.ndarray]:
    """Cells that differ from one another in size and in how steady they are."""
    rng = np.random.default_rng(seed)
    size, spread = np.linspace(0.01, 2.0, 32).reshape(SHAPE), np.linspace(0.1, 1.0, 32).reshape(SHAPE)
    return [(size * np.exp(spread * rng.normal(size=SHAPE))).astype(np.float32) for _ in range(count)]


def calibration(blocks: int = 1000) -> Calibration:
    """By five runs."""
    return Calibration.of([some_blocks(blocks // 5, seed) for seed in range(5)], CAMERAS, **ORIGIN)


QUIET = np.linspace(0.01, 2.0, 32).reshape(SHAPE).astype(np.float32)
ODD = 50 * QUIET


class Clock:
    ns = 5 * NS_PER_S

    def __call__(self) -> int:
        return self.ns


def watch(action: str = HOLD, clock: Clock | None = None, **settings: object) -> SurpriseWatch:
    return SurpriseWatch(SurpriseSettings(action, **settings), calibration(), clock or Clock())


def test_a_percentile_is_the_share_of_normal_blocks_that_were_less_surprising() -> None:
    normal = calibration()
    shares = [normal.percentile(score) for score in normal.cells.scores(some_blocks(2000, seed=9))]
    for level in (50, 90, 99):  # so many of other normal blocks lie below: it is no percentile of its own runs alone
        assert np.mean(np.array(shares) <= level) == pytest.approx(level / 100, abs=0.03)
    assert normal.percentile(normal.cells.score(ODD, QUIET)) == 100.0
    assert normal.percentile(float("inf")) == normal.percentile(float("nan")) == 100.0


def test_a_little_that_is_odd_in_a_quiet_place_surprises_more_than_much_where_much_is_normal() -> None:
    normal = calibration().cells
    quiet, busy = QUIET.copy(), QUIET.copy()
    quiet[0, 0, :3] *= 10  # 0.4 in the mean, where 0.04 and little of it are normal
    busy[1, 3] *= 1.8
    assert quiet.sum() < busy.sum() and normal.score(quiet, QUIET) > normal.score(busy, QUIET) + 5


def test_what_stays_hard_to_foresee_surprises_when_it_begins() -> None:
    """Blocks that come and go over many blocks, as where an arm works for a while."""
    rng, runs = np.random.default_rng(0), []
    for _ in range(5):
        level, run = np.zeros(SHAPE), []
        for _ in range(100):
            level = 0.9 * level + 0.4 * rng.normal(size=SHAPE)
            run.append(np.exp(level).astype(np.float32))
        runs.append(run)
    normal = Calibration.of(runs, CAMERAS, **ORIGIN).cells
    assert normal.persistence == pytest.approx(0.9, abs=0.05)
    calm, worse = np.ones(SHAPE, np.float32), np.full(SHAPE, np.exp(1.5), np.float32)
    assert normal.score(worse, calm) > normal.score(worse, worse) + 2
    assert normal.score(worse, calm) > normal.score(worse, None)


def test_each_camera_has_a_standard_of_its_own() -> None:
    """As much is odd in a few cells of either; in one camera cells jump together all the time, in the other never."""
    rng, runs = np.random.default_rng(0), []
    for _ in range(5):
        run = [np.exp(0.2 * rng.normal(size=SHAPE)).astype(np.float32) for _ in range(100)]
        for block in run[::10]:
            block[:, 2:] *= 20
        runs.append(run)
    normal = Calibration.of(runs, CAMERAS, **ORIGIN).cells
    still, restless, unseen = (np.ones(SHAPE, np.float32) for _ in range(3))
    still[:, 0, :3], restless[:, 2, :3], unseen[:, :2, 3] = 6.0, 6.0, 6.0
    calm = np.ones(SHAPE, np.float32)
    assert normal.score(still, calm) > normal.score(restless, calm) + 2
    assert normal.score(unseen, calm) == normal.score(calm, calm)  # no camera is shown there


def test_cells_that_are_no_numbers_are_farther_than_any() -> None:
    broken = QUIET.copy()
    broken[0, 0, 0] = np.nan
    assert calibration().cells.score(broken, None) == float("inf")


def test_a_calibration_is_read_as_it_was_written(tmp_path: Path) -> None:
    made = calibration()
    made.save(tmp_path / "surprise.json")
    read = Calibration.load(tmp_path / "surprise.json")
    assert (read.scores, read.runs, read.blocks, read.regimes) == (made.scores, 5, 1000, ("stop_and_go",))
    assert read.misfit("c" * 64, "w" * 64, 4) == ""
    assert read.cells.score(ODD, QUIET) == pytest.approx(made.cells.score(ODD, QUIET), rel=1e-3)
    assert read.cells.score(ODD, None) == pytest.approx(made.cells.score(ODD, None), rel=1e-3)


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


def test_a_file_of_the_first_form_is_to_be_made_anew(tmp_path: Path) -> None:
    calibration().save(tmp_path / "surprise.json")
    document = json.loads((tmp_path / "surprise.json").read_text())
    del document["form"], document["cells"]
    (tmp_path / "surprise.json").write_text(json.dumps(document))
    with pytest.raises(CalibrationError, match="has form 1, expected 2; make it anew with dreamzero calibrate"):
        Calibration.load(tmp_path / "surprise.json")


def test_what_is_not_two_blocks_of_one_size_of_numbers_is_no_calibration() -> None:
    for blocks in ([], [QUIET], [QUIET, QUIET[:1]], [QUIET, np.full(SHAPE, np.nan, np.float32)]):
        with pytest.raises(CalibrationError, match=r"two blocks or more of \(4, 4\) cells that are finite numbers"):
            Calibration.of([blocks], CAMERAS, **ORIGIN)


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
        with pytest.raises(CalibrationError, match="of 95 blocks, too few for percentile 99"):
            SurpriseWatch(SurpriseSettings(action), calibration(95))
        SurpriseWatch(SurpriseSettings(action), calibration(100))
    SurpriseWatch(SurpriseSettings(NONE), None)


def test_one_block_is_not_enough_and_a_normal_one_begins_the_count_anew() -> None:
    watched = watch(WARN, blocks=2)
    assert [bool(watched.add(d)) for d in (ODD, QUIET, ODD, QUIET, ODD)] == [False] * 5
    assert watched.warning == ""
    assert "2 blocks in a row" in watched.add(ODD)
    assert watched.add(ODD) == ""  # said once
    assert watched.warning
    watched.add(QUIET)
    assert watched.warning == ""


def test_with_none_numbers_are_told_and_nothing_follows() -> None:
    watched = watch(NONE)
    assert [watched.add(ODD) for _ in range(5)] == [""] * 5
    assert (watched.blocks, watched.distance, watched.percentile) == (5, distance(ODD), 100.0)
    assert watched.warning == "" and watched.trouble() is None


def test_without_a_calibration_there_is_a_distance_and_no_percentile() -> None:
    watched = SurpriseWatch(SurpriseSettings(), None)
    watched.add(QUIET)
    assert (watched.distance, watched.percentile) == (distance(QUIET), None)


def test_a_robot_is_held_for_its_time_and_then_looks_anew() -> None:
    clock = Clock()
    watched = watch(HOLD, clock, blocks=2, hold_s=1.5)
    for _ in range(2):
        assert watched.trouble() is None
        watched.add(ODD)
    trouble = watched.trouble()
    assert trouble.fault is Fault.SURPRISE_HELD and trouble.fault.outcome is Outcome.HOLD
    assert "percentile 100.0" in trouble.text and "surprise_percentile is 99" in trouble.text
    clock.ns += round(1.4 * NS_PER_S)
    assert watched.trouble() is not None
    clock.ns += round(0.2 * NS_PER_S)
    assert watched.trouble() is None
    watched.add(ODD)
    assert watched.trouble() is None  # it counts anew


def test_another_instruction_forgets_what_was_seen_under_the_last() -> None:
    watched = watch(HOLD, blocks=2)
    watched.add(ODD)
    watched.forget()
    watched.add(ODD)
    assert watched.trouble() is None
    watched.add(ODD)
    assert watched.trouble() is not None
    watched.forget()
    assert watched.trouble() is None
