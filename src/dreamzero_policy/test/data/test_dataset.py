"""What a data set promises: any form gives the same episodes, nothing straddles the split, statistics are made once."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamzero_policy.data.dataset import IdleRule, open_dataset, validates
from dreamzero_policy.data.episodes import EpisodeError, load_episode
from dreamzero_policy.data.idle import moving_span, trimmed
from dreamzero_policy.data.lerobot.writer import LeRobotWriter
from dreamzero_policy.data.windows import quantiles, window
from dreamzero_policy.runtime.contract import ContractError
from dreamzero_policy.runtime.embodiment import without_statistics

Names = st.lists(st.text("abcdefgh0123456789_", min_size=1, max_size=12), min_size=1, max_size=40, unique=True)


@pytest.fixture
def both(tmp_path, contract, recorded) -> tuple[Path, Path]:
    """The same ten episodes as views and as a LeRobot data set."""
    views, lerobot = tmp_path / "views", tmp_path / "lerobot"
    views.mkdir()
    with LeRobotWriter(lerobot, contract) as writer:
        for number in range(10):
            made = recorded(f"touch_{number}", 60)
            writer.add(made)
            made.episode(without_statistics(contract)).save(views / f"touch_{number}.npz", contract)
    return views, lerobot


@given(names=Names, more=Names)
def test_no_episode_changes_sides_when_others_are_added(names, more):
    before = {name: validates(name) for name in names}
    after = {name: validates(name) for name in [*more, *names]}
    assert {name: after[name] for name in names} == before


def test_the_split_has_about_the_share_that_was_asked_for():
    sides = [validates(f"episode_{number:06d}", 0.2) for number in range(5000)]
    assert 0.18 < np.mean(sides) < 0.22
    assert not any(validates(f"episode_{number}", 0.0) for number in range(100))
    # A larger share keeps what validated before.
    assert all(validates(f"e{n}", 0.3) for n in range(500) if validates(f"e{n}", 0.1))


def test_every_form_gives_the_same_episodes_and_the_same_split(both, contract):
    views, lerobot = (open_dataset(folder, contract) for folder in both)
    assert views.names == lerobot.names
    assert views.split(0.4) == lerobot.split(0.4)
    split = views.split(0.4)
    assert sorted(split.train + split.validation) == sorted(views.names) and split.train and split.validation
    for mine, theirs in zip(views.episodes(), lerobot.episodes(), strict=True):
        np.testing.assert_allclose(mine.state, theirs.state, atol=1e-6)
        np.testing.assert_array_equal(mine.view_steps, theirs.view_steps)
    robot = without_statistics(contract)
    assert window(robot, lerobot.episode("touch_3"), 3, 2).chunks == 2


def test_statistics_are_made_once_and_again_when_the_episodes_change(both, contract, tmp_path, recorded):
    dataset, path = open_dataset(both[1], contract), tmp_path / "statistics.json"
    names = dataset.names[:8]
    made = dataset.statistics(path, names)
    expected = quantiles(contract, dataset.episodes(names))
    np.testing.assert_allclose(made.state.q01, expected[0].q01)
    assert json.loads(path.read_text())["contract_hash"] == contract.hash
    written = path.stat().st_mtime_ns
    assert dataset.statistics(path, names).hash == made.hash
    assert path.stat().st_mtime_ns == written
    dataset.statistics(path, dataset.names)
    assert path.stat().st_mtime_ns > written
    other = contract.model_copy(update={"model": contract.model.model_copy(update={"embodiment": "other"})})
    with pytest.raises(ContractError, match="belong to contract"):
        open_dataset(both[0], other).statistics(path, names)


def test_statistics_do_not_need_pictures(both, contract, tmp_path):
    for path in both[1].rglob("*.mp4"):
        path.unlink()
    dataset = open_dataset(both[1], contract)
    assert dataset.statistics(tmp_path / "statistics.json").hash
    with pytest.raises(EpisodeError, match=r"episode touch_0: .*mp4 is absent"):
        dataset.episode("touch_0")


def test_a_bad_episode_stops_the_reading_and_is_named(both, contract):
    (both[0] / "touch_4.npz").write_bytes(b"not an episode")
    dataset = open_dataset(both[0], contract)
    with pytest.raises(EpisodeError, match=r"touch_4\.npz cannot be read"):
        list(dataset.episodes())


def test_a_folder_of_nothing_or_of_two_forms_is_refused(both, contract, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(EpisodeError, match=r"empty holds no episodes; expected a LeRobot data set"):
        open_dataset(tmp_path / "empty", contract)
    with pytest.raises(EpisodeError, match="does not exist"):
        open_dataset(tmp_path / "absent", contract)
    (both[1] / "stray.npz").write_bytes(b"")
    with pytest.raises(EpisodeError, match="a LeRobot data set and views"):
        open_dataset(both[1], contract)


# Idle ends


@pytest.fixture
def resting(contract, recorded):
    """40 steps still with noise, 60 moving, 30 still: a joint moves by 0.5 rad, its command is 2 steps ahead."""
    made = recorded(steps=130).episode(without_statistics(contract))
    path = np.clip((np.arange(130) - 40) / 60, 0, 1) * 0.5
    state, action = np.tile(made.state[0], (130, 1)), np.tile(made.action[0], (130, 1))
    state[:, 2] += path + 1e-3 * np.random.default_rng(0).standard_normal(130)
    action[:, 2] += np.roll(path, -2)
    action[-2:, 2] = action[-3, 2]
    return replace(made, state=state, action=action)


def test_idle_ends_are_cut_and_a_margin_is_kept(resting, contract):
    begin, end = moving_span(resting.state, resting.action)
    assert 38 <= begin <= 41 and 97 <= end <= 100
    short = trimmed(resting, contract.model)
    first = (begin - 9) // 3 * 3  # 0.3 s before, on a step with a picture
    assert short.steps == end + 9 - first
    np.testing.assert_array_equal(short.state, resting.state[first : end + 9])
    np.testing.assert_array_equal(short.view_steps, np.arange(0, short.steps, 3))
    np.testing.assert_array_equal(short.canvas, resting.canvas[first // 3 : first // 3 + len(short.canvas)])


@given(start=st.integers(5, 60), moving=st.integers(20, 60), still=st.integers(0, 50))
def test_nothing_that_moves_is_cut(contract, start, moving, still):
    steps = start + moving + still
    state = np.zeros((steps, 3))
    state[:, 1] = np.clip((np.arange(steps) - start) / 50, 0, moving / 50)
    begin, end = moving_span(state, np.zeros((steps, 2)))
    assert abs(begin - start) <= 2 and abs(end - (start + moving)) <= 2


def test_pauses_and_episodes_that_never_rest_stay_whole(contract, recorded):
    made = recorded(steps=60).episode(without_statistics(contract))
    assert trimmed(made, contract.model).steps == 60
    paused = replace(made, state=made.state.copy(), action=made.action.copy())
    paused.state[20:40], paused.action[20:40] = paused.state[20], paused.action[20]
    assert trimmed(paused, contract.model).steps == 60


def test_an_episode_in_which_nothing_moves_is_refused_by_name(both, contract, recorded):
    made = recorded(steps=60).episode(without_statistics(contract))
    made.state[:], made.action[:] = made.state[0], made.action[0]
    made.save(both[0] / "still.npz", contract)
    with pytest.raises(EpisodeError, match="episode still: nothing moves: the largest change"):
        open_dataset(both[0], contract, IdleRule()).episode("still")


# The compact form


@pytest.mark.parametrize(
    ("field", "change", "complaint"),
    [
        ("view_steps", lambda v: v[::-1], r"bad.npz: view_steps must rise within the 6 steps, got \[3, 0\]"),
        ("view_steps", lambda v: v + 5, r"view_steps must rise within the 6 steps, got \[5, 8\]"),
        ("action", lambda v: v[:-1], r"bad.npz: action has shape \(5, 22\), the contract makes it \(6, 22\)"),
        ("state", lambda v: v + np.inf, r"bad.npz: state is not finite at step 0"),
        ("canvas", lambda v: v[:, :64], r"bad.npz: canvas has shape \(2, 64, 128, 3\), the contract makes it"),
        ("canvas", None, r"bad.npz has no field canvas"),
        ("action", None, r"bad.npz has no field action"),
    ],
)
def test_a_bad_field_of_a_view_file_is_named(tmp_path, contract, recorded, field, change, complaint):
    recorded(steps=6).episode(without_statistics(contract)).save(tmp_path / "good.npz", contract)
    with np.load(tmp_path / "good.npz") as file:
        content = {name: file[name] for name in file.files}
    if change is None:
        del content[field]
    else:
        content[field] = change(content[field])
    np.savez(tmp_path / "bad.npz", **content)
    with pytest.raises(EpisodeError, match=complaint):
        load_episode(tmp_path / "bad.npz", contract)


def test_a_view_file_that_is_cut_or_scrambled_anywhere_is_refused_or_whole(tmp_path, contract, recorded):
    recorded(steps=6).episode(without_statistics(contract)).save(tmp_path / "a.npz", contract)
    whole, rng = (tmp_path / "a.npz").read_bytes(), np.random.default_rng(0)
    refused = 0
    for _ in range(60):
        damaged, at = bytearray(whole), rng.integers(len(whole) - 64)
        damaged[at : at + 64] = rng.bytes(64)
        (tmp_path / "a.npz").write_bytes(damaged if rng.random() < 0.5 else whole[:at])
        try:
            load_episode(tmp_path / "a.npz", contract)
        except EpisodeError:
            refused += 1
    assert refused == 60  # every member carries a checksum


def test_phrasings_come_back_and_older_files_have_the_one(tmp_path, contract, recorded):
    made = recorded(steps=6, instructions=("touch it", "reach for it")).episode(without_statistics(contract))
    made.save(tmp_path / "new.npz", contract)
    assert load_episode(tmp_path / "new.npz", contract).instructions == ("touch it", "reach for it")
    with np.load(tmp_path / "new.npz") as file:
        content = {name: file[name] for name in file.files if name != "instructions"}
    np.savez(tmp_path / "old.npz", **content)
    assert load_episode(tmp_path / "old.npz", contract).instructions == ("touch it",)
    np.savez(tmp_path / "wrong.npz", **content, instructions=np.array(["lift it"]))
    with pytest.raises(EpisodeError, match=r"wrong.npz: instructions begin with .*'lift it'.*'touch it'"):
        load_episode(tmp_path / "wrong.npz", contract)
