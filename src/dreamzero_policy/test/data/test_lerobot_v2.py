"""What older data sets promise: v2.1 with one file an episode, GR00T-style groups, other names and units, is read."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dreamzero_policy.data.episodes import EpisodeError
from dreamzero_policy.data.lerobot.columns import columns, conversion
from dreamzero_policy.data.lerobot.reader import LeRobotSource, Matching
from dreamzero_policy.data.recordings import Recording
from dreamzero_policy.data.video import VideoWriter
from dreamzero_policy.runtime.contract import Contract
from dreamzero_policy.runtime.embodiment import without_statistics

from .conftest import HEIGHT_PX, WIDTH_PX

THEIRS = {"top_head": "head", "hand_left": "hand_left", "hand_right": "hand_right"}


def write_v21(folder: Path, contract: Contract, recording: Recording, modality: dict | None = None) -> None:
    """One episode as convert scripts of GR00T and DreamZero leave it: vectors without names, cameras of their own."""
    for sub in ("meta", "data/chunk-000"):
        (folder / sub).mkdir(parents=True, exist_ok=True)
    features = {
        "observation.state": {"dtype": "float64", "shape": [recording.state.shape[1]]},
        "action": {"dtype": "float64", "shape": [recording.action.shape[1]]},
        **{
            f"observation.images.{camera}": {"dtype": "video", "shape": [HEIGHT_PX, WIDTH_PX, 3], "names": None}
            for camera in THEIRS
        },
        **{key: {"dtype": "int64", "shape": [1]} for key in ("timestamp", "task_index", "annotation.second_text")},
    }
    info = {
        "codebase_version": "v2.1",
        "fps": 30,
        "chunks_size": 1000,
        "features": features,
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    }
    (folder / "meta/info.json").write_text(json.dumps(info))
    tasks = [{"task_index": 0, "task": "touch the cube"}, {"task_index": 1, "task": "reach for the cube"}]
    (folder / "meta/tasks.jsonl").write_text("\n".join(map(json.dumps, tasks)))
    row = {"episode_index": 0, "tasks": ["touch the cube"], "length": recording.steps}
    (folder / "meta/episodes.jsonl").write_text(json.dumps(row) + "\n")
    if modality is not None:
        (folder / "meta/modality.json").write_text(json.dumps(modality))
    table = pa.table(
        {
            "observation.state": recording.state.tolist(),
            "action": recording.action.tolist(),
            "timestamp": np.arange(recording.steps) / 30,
            "episode_index": np.zeros(recording.steps, np.int64),
            "task_index": np.zeros(recording.steps, np.int64),
            "annotation.second_text": np.ones(recording.steps, np.int64),
        }
    )
    pq.write_table(table, folder / "data/chunk-000/episode_000000.parquet")
    for theirs, ours in THEIRS.items():
        place = folder / f"videos/chunk-000/observation.images.{theirs}"
        place.mkdir(parents=True)
        writer = VideoWriter(place / "episode_000000.mp4", WIDTH_PX, HEIGHT_PX, 30)
        for images in recording.images(range(recording.steps)):
            writer.add(images[ours])
        writer.close()


def spans(contract: Contract, order: Callable = list) -> dict:
    """modality.json in which the groups stand in another order than the contract's."""
    document: dict = {}
    for kind in ("state", "action"):
        begin, document[kind] = 0, {}
        for group in order(getattr(contract.model, kind)):
            document[kind][group.key] = {"start": begin, "end": begin + group.width}
            begin += group.width
    document["video"] = {theirs: {"original_key": f"observation.images.{theirs}"} for theirs in THEIRS}
    document["annotation"] = {"second_text": {}}
    return document


def reordered(recording: Recording, contract: Contract) -> Recording:
    """The same vectors with the groups in reverse order."""

    def turned(rows: np.ndarray, groups) -> np.ndarray:
        ends = np.cumsum([group.width for group in groups])
        parts = [rows[:, end - group.width : end] for group, end in zip(groups, ends, strict=True)]
        return np.concatenate(parts[::-1], axis=1)

    model = contract.model
    state, action = turned(recording.state, model.state), turned(recording.action, model.action)
    return Recording(recording.name, recording.instructions, state, action, recording.images)


def test_groups_are_found_where_modality_json_says(tmp_path, contract, recorded):
    made = recorded(steps=30)
    write_v21(tmp_path, contract, reordered(made, contract), spans(contract, lambda groups: list(groups)[::-1]))
    source = LeRobotSource(tmp_path, contract, Matching(renames={"top_head": "head"}))
    got = source.episode("episode_000000")
    np.testing.assert_allclose(got.state, made.state)
    np.testing.assert_allclose(got.action, made.action)
    assert np.abs(got.canvas.astype(int) - made.episode(without_statistics(contract)).canvas).max() <= 8
    assert got.instructions == ("touch the cube", "reach for the cube")


def test_a_camera_of_another_name_is_not_guessed(tmp_path, contract, recorded):
    write_v21(tmp_path, contract, recorded(steps=10), spans(contract))
    with pytest.raises(EpisodeError, match=r"camera head is missing.*hand_left, hand_right, top_head"):
        LeRobotSource(tmp_path, contract).episode("episode_000000")


def test_a_group_of_another_width_is_refused(tmp_path, contract, recorded):
    document = spans(contract)
    document["state"]["head_position"]["end"] += 1
    write_v21(tmp_path, contract, recorded(steps=10), document)
    with pytest.raises(EpisodeError, match=r"head_position is 16:19 of 20 columns .* the contract has 2 joints"):
        LeRobotSource(tmp_path, contract, Matching(renames={"top_head": "head"})).episode("episode_000000")


def test_vectors_without_names_are_taken_as_they_stand_only_if_their_length_fits(tmp_path, contract, recorded):
    made = recorded(steps=10)
    write_v21(tmp_path / "fits", contract, made)
    matching = Matching(renames={"top_head": "head"})
    got = LeRobotSource(tmp_path / "fits", contract, matching).episode("episode_000000")
    np.testing.assert_allclose(got.action, made.action)
    narrow = Recording("x", ("x",), made.state, made.action[:, :20], made.images)
    write_v21(tmp_path / "narrow", contract, narrow)
    with pytest.raises(EpisodeError, match=r"action: 20 columns without names, the contract has 22 joints"):
        LeRobotSource(tmp_path / "narrow", contract, matching).episode("episode_000000")


def test_units_of_the_data_set_become_the_contracts(contract):
    names = [f"{joint}.pos" for joint in contract.model.state_joints]
    feature = {"shape": [20], "names": {"motors": names}}
    units = {"left_arm_joint_position": "deg", "idx41_gripper_l_outer_joint1": "rad"}
    rows = np.zeros((1, 20))
    rows[0, 0], rows[0, 14] = 180.0, 0.012
    got = columns(contract, contract.model.state, feature, "set: state", {}, units).taken(rows)
    assert got[0, 0] == pytest.approx(np.pi)
    assert got[0, 14] == pytest.approx(1.0)  # the site's closed stop
    assert got[0, 15] == 0.0  # no unit given: the contract's own


def test_a_gripper_comes_in_any_convention_or_is_refused(contract):
    stops = contract.site.grippers["idx41_gripper_l_outer_joint1"]  # 0.773 rad open, 0.012 rad closed
    for theirs, ours, value, expected in (
        ("opening", "fraction", 0.25, 0.75),
        ("fraction", "opening", 0.25, 0.75),
        ("rad", "fraction", 0.773, 0.0),
        ("rad", "opening", 0.773, 1.0),
        ("deg", "fraction", np.degrees(0.012), 1.0),
        ("fraction", "fraction", 0.3, 0.3),
    ):
        scale, offset = conversion(theirs, ours, stops, "set: gripper")
        assert value * scale + offset == pytest.approx(expected)
    with pytest.raises(EpisodeError, match="set: arm is given in 'fraction', the contract has 'rad'"):
        conversion("fraction", "rad", None, "set: arm")
