"""What LeRobot data sets promise: what is written is read back, an interruption costs one episode, no foreign order
or name is guessed."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dreamzero_policy.data import video
from dreamzero_policy.data.episodes import EpisodeError
from dreamzero_policy.data.lerobot import layout
from dreamzero_policy.data.lerobot.reader import LeRobotSource, Matching
from dreamzero_policy.data.lerobot.staging import Draft
from dreamzero_policy.data.lerobot.writer import LeRobotWriter
from dreamzero_policy.runtime.embodiment import without_statistics

from .conftest import HEIGHT_PX, WIDTH_PX, picture

CODING = 8  # of 255: what H.264 and the colour space change a view by at most, in these pictures


@pytest.fixture
def folder(tmp_path, contract, recorded) -> Path:
    """Two episodes, 40 and 31 steps long; the first has two phrasings."""
    with LeRobotWriter(tmp_path / "set", contract) as writer:
        writer.add(recorded("first", 40, ("touch the cube", "reach for the cube")))
        writer.add(recorded("second", 31, ("lift the bowl",)))
    return tmp_path / "set"


def change_info(folder: Path, change) -> None:
    path = folder / layout.INFO
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def change_data(folder: Path, change) -> None:
    path = folder / layout.DATA_PATH.format(chunk_index=0, file_index=0)
    columns = pq.read_table(path).to_pydict()
    change(columns)
    schema = pq.read_schema(path)
    pq.write_table(layout.pa.table({name: columns[name] for name in schema.names if name in columns}), path)


def test_an_episode_comes_back_with_its_numbers_phrasings_and_views(folder, contract, recorded):
    source, robot = LeRobotSource(folder, contract), without_statistics(contract)
    assert source.names == ("first", "second")
    for name, steps in (("first", 40), ("second", 31)):
        got, made = source.episode(name), recorded(name, steps).episode(robot)
        np.testing.assert_allclose(got.state, made.state, atol=1e-6)
        np.testing.assert_allclose(got.action, made.action, atol=1e-6)
        np.testing.assert_array_equal(got.view_steps, np.arange(0, steps, 3))
        assert np.abs(got.canvas.astype(int) - made.canvas).max() <= CODING
    assert source.episode("first").instructions == ("touch the cube", "reach for the cube")
    assert source.episode("second").instruction == "lift the bowl"


def test_the_files_are_those_of_the_format(folder, contract):
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    videos = {f"videos/observation.images.{c}/chunk-000/file-000.mp4" for c in contract.model.cameras}
    assert files == videos | {
        "meta/info.json",
        "meta/stats.json",
        "meta/tasks.parquet",
        "meta/contract.yaml",
        "meta/episodes/chunk-000/file-000.parquet",
        "data/chunk-000/file-000.parquet",
    }
    info = json.loads((folder / "meta/info.json").read_text())
    assert (info["codebase_version"], info["fps"], info["total_episodes"], info["total_frames"]) == ("v3.0", 30, 2, 71)
    assert info["features"]["observation.state"]["names"] == list(contract.model.state_joints)
    assert info["dreamzero"]["contract_hash"] == contract.hash
    tasks = pq.read_table(folder / "meta/tasks.parquet")
    assert tasks.to_pydict() == {
        "task_index": [0, 1, 2],
        "task": ["touch the cube", "reach for the cube", "lift the bowl"],
    }
    assert json.loads(tasks.schema.metadata[b"pandas"])["index_columns"] == ["task"]
    data = pq.ParquetFile(folder / "data/chunk-000/file-000.parquet")
    assert data.num_row_groups == 2  # one an episode
    rows = data.read().to_pydict()
    assert rows["index"] == list(range(71)) and rows["task_index"] == [0] * 40 + [2] * 31
    second = pq.read_table(folder / "meta/episodes/chunk-000/file-000.parquet").to_pylist()[1]
    assert (second["dataset_from_index"], second["dataset_to_index"], second["length"]) == (40, 71, 31)
    assert second["videos/observation.images.head/from_timestamp"] == pytest.approx(40 / 30)
    stats = json.loads((folder / "meta/stats.json").read_text())
    assert stats["observation.state"]["count"] == [71]
    assert np.shape(stats["observation.images.head"]["mean"]) == (3, 1, 1)
    assert stats["observation.images.head"]["mean"][0][0][0] == pytest.approx(40 / 255)


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lengths=st.lists(st.integers(2, 25), min_size=1, max_size=4), one_file=st.booleans())
def test_whatever_was_written_is_read_back(tmp_path_factory, contract, recorded, lengths, one_file):
    folder = tmp_path_factory.mktemp("law") / "set"
    with LeRobotWriter(folder, contract, file_mib=200 if one_file else 0) as writer:
        for number, steps in enumerate(lengths):
            writer.add(recorded(f"episode-{number}", steps))
    source = LeRobotSource(folder, contract)
    assert len(list((folder / "data").rglob("*.parquet"))) == (1 if one_file else len(lengths))
    assert [source.recording(name).steps for name in source.names] == lengths
    for name, steps in zip(source.names, lengths, strict=True):
        recording = source.recording(name)
        np.testing.assert_allclose(recording.action, recorded(name, steps).action, atol=1e-6)
        for step, images in enumerate(recording.images(range(steps))):  # no frame of a neighbour in the same file
            assert abs(int(images["head"][20, 20, 1]) - int(picture(0, step)[20, 20, 1])) <= CODING


def test_a_writer_that_is_interrupted_leaves_complete_episodes_only(tmp_path, contract, recorded):
    folder, whole = tmp_path / "set", recorded("whole", 20)
    writer = LeRobotWriter(folder, contract)
    writer.add(whole)
    draft = writer.draft("half").__enter__()
    for images in whole.images(range(7)):
        draft.add(whole.state[0], whole.action[0], images)
    del writer, draft  # the process is gone: nothing was closed or packed
    again = LeRobotWriter(folder, contract)
    assert "whole" in again and "half" not in again
    again.add(recorded("half", 12))
    again.close()
    source = LeRobotSource(folder, contract)
    assert {name: source.steps(name) for name in source.names} == {"half": 12, "whole": 20}


def test_a_writer_killed_while_packing_is_made_good_by_the_next(folder, contract, recorded, monkeypatch):
    writer = LeRobotWriter(folder, contract)
    writer.add(recorded("third", 15))
    monkeypatch.setattr(LeRobotWriter, "_settle", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        writer.pack()  # rows are written, counters and statistics are not
    monkeypatch.undo()
    assert json.loads((folder / layout.INFO).read_text())["total_episodes"] == 2
    with LeRobotWriter(folder, contract) as again:
        assert len(again) == 3 and "third" in again
    info = json.loads((folder / layout.INFO).read_text())
    assert (info["total_episodes"], info["total_frames"], info["splits"]) == (3, 86, {"train": "0:3"})
    assert json.loads((folder / layout.STATS).read_text())["action"]["count"] == [86]
    assert not (folder / ".staging").exists()


def test_a_draft_that_is_not_finished_leaves_nothing(tmp_path, contract, recorded):
    made = recorded(steps=5)
    with LeRobotWriter(tmp_path / "set", contract) as writer:
        with writer.draft("failed") as draft:
            draft.add(made.state[0], made.action[0], next(made.images([0])))
        assert "failed" not in writer
        writer.add(made)
    assert LeRobotSource(tmp_path / "set", contract).names == ("first",)


def test_processes_stage_side_by_side_and_one_packs(tmp_path, contract, recorded):
    for name in ("b", "a"):  # no writer is open here
        made = recorded(name, 6)
        with Draft(tmp_path / "set", name, contract, 30) as draft:
            for state, action, images in zip(made.state, made.action, made.images(range(6)), strict=True):
                draft.add(state, action, images)
            draft.finish(made.instructions)
    LeRobotWriter(tmp_path / "set", contract).close()
    assert LeRobotSource(tmp_path / "set", contract).names == ("a", "b")


def test_joints_go_by_name_whatever_their_order(folder, contract, recorded):
    def reverse(document: dict) -> None:
        document["features"]["observation.state"]["names"].reverse()
        document["dreamzero"]["units"]["observation.state"].reverse()

    change_info(folder, reverse)
    change_data(folder, lambda c: c.update({"observation.state": [row[::-1] for row in c["observation.state"]]}))
    got = LeRobotSource(folder, contract).episode("second")
    np.testing.assert_allclose(got.state, recorded("second", 31).state, atol=1e-6)


def test_a_faster_data_set_is_read_on_the_contracts_grid(tmp_path, contract, recorded):
    fast = contract.model_copy(update={"model": contract.model.model_copy(update={"action_hz": 60.0})})
    with LeRobotWriter(tmp_path / "set", fast) as writer:
        writer.add(recorded(steps=41))
    with pytest.raises(EpisodeError, match=r"another contract \(ours \| theirs\): model.action_hz: 30.0 \| 60.0"):
        LeRobotSource(tmp_path / "set", contract).episode("first")
    got = LeRobotSource(tmp_path / "set", contract, Matching(any_contract=True)).episode("first")
    np.testing.assert_allclose(got.state, recorded(steps=41).state[::2], atol=1e-6)
    with pytest.raises(EpisodeError, match=r"fps is 60, the contract's action grid has 90"):
        faster = contract.model_copy(update={"model": contract.model.model_copy(update={"action_hz": 90.0})})
        LeRobotSource(tmp_path / "set", faster, Matching(any_contract=True)).episode("first")


def test_a_data_set_of_another_contract_is_not_continued(folder, contract):
    other = contract.model_copy(update={"model": contract.model.model_copy(update={"embodiment": "other"})})
    with pytest.raises(EpisodeError, match=r"model.embodiment: 'other' \| 'agibot_g1'"):
        LeRobotWriter(folder, other)


def test_metadata_that_lost_an_episode_are_refused(folder, contract, recorded):
    with LeRobotWriter(folder, contract) as writer:
        writer.add(recorded("third", 5))
    (folder / layout.EPISODES_PATH.format(chunk_index=0, file_index=1)).unlink()
    with pytest.raises(EpisodeError, match=r"describe 2 episodes, info\.json says 3"):
        LeRobotSource(folder, contract)


def remove_camera(document: dict) -> None:
    del document["features"]["observation.images.hand_left"]


def remove_name(document: dict) -> None:
    document["features"]["action"]["names"][3] = "elbow"


def no_names(document: dict) -> None:
    document["features"]["observation.state"] |= {"names": None, "shape": [19]}


def named_twice(document: dict) -> None:
    names = document["features"]["action"]["names"]
    names[1] = names[0]


def unknown_unit(document: dict) -> None:
    document["dreamzero"]["units"]["action"][0] = "furlong"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (remove_camera, r"camera hand_left is missing.*has hand_right, head.*--rename THEIRS=hand_left"),
        (remove_name, r"action: joint idx24_arm_l_joint4 is absent \(1 of 22 are\).*elbow"),
        (no_names, r"observation.state: 19 columns without names, the contract has 20 joints"),
        (named_twice, r"action: idx21_arm_l_joint1 is named twice"),
        (unknown_unit, r"action: idx21_arm_l_joint1 is given in 'furlong', the contract has 'rad'"),
        (lambda d: d.pop("fps"), r"info.json has no field fps"),
        (lambda d: d.update(codebase_version="v1.6"), r"codebase_version is 'v1.6', this runtime reads v2.x and v3.x"),
    ],
)
def test_metadata_that_do_not_fit_are_refused_by_name(folder, contract, change, complaint):
    change_info(folder, change)
    with pytest.raises(EpisodeError, match=complaint):
        LeRobotSource(folder, contract).episode("first")


def not_finite(columns: dict) -> None:
    columns["action"][45][2] = float("nan")


def backwards(columns: dict) -> None:
    columns["timestamp"][50] = 0.0


def shorter(columns: dict) -> None:
    for values in columns.values():
        del values[-1]


def another_task(columns: dict) -> None:
    columns["task_index"][60] = 0


def narrower(columns: dict) -> None:
    columns["action"][44] = columns["action"][44][:-1]


def gap(columns: dict) -> None:
    for row in range(55, 71):
        columns["timestamp"][row] += 0.1


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (not_finite, r"episode second: action of idx23_arm_l_joint3 is nan at step 5"),
        (backwards, r"episode second: timestamp: stamps do not increase, 0.300000 s is followed by 0.000000 s"),
        (shorter, r"episode second: .*file-000.parquet has 30 rows, the metadata say 31"),
        (another_task, r"episode second: task_index changes from 2 to 0 at row 20"),
        (narrower, r"episode second: action has 21 entries at row 4, info.json says 22"),
        (gap, r"episode second: observation.state: nothing at 0.500 s, the nearest is .* tolerance 10.0 ms"),
        (
            lambda c: c.pop("action"),
            r"episode second: .*file-000.parquet has no column action, it has observation.state",
        ),
    ],
)
def test_numbers_that_cannot_be_used_are_refused_with_episode_and_field(folder, contract, change, complaint):
    change_data(folder, change)
    with pytest.raises(EpisodeError, match=complaint):
        LeRobotSource(folder, contract).episode("second")


def test_a_damaged_table_is_named(folder, contract):
    path = folder / layout.DATA_PATH.format(chunk_index=0, file_index=0)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(EpisodeError, match=r"episode first: .*file-000.parquet cannot be read"):
        LeRobotSource(folder, contract).episode("first")


@pytest.mark.parametrize("damage", ["absent", "empty", "cut", "scrambled"])
def test_a_damaged_video_is_named_and_never_repaired(folder, contract, damage):
    path = folder / layout.VIDEO_PATH.format(video_key="observation.images.hand_right", chunk_index=0, file_index=0)
    data = bytearray(path.read_bytes())
    if damage == "absent":
        path.unlink()
    elif damage == "scrambled":  # the index stays whole, the pictures do not
        begin = data.index(b"mdat") + 200
        end = begin + (len(data) - begin) // 2
        data[begin:end] = np.random.default_rng(0).bytes(end - begin)
        path.write_bytes(data)
    else:
        path.write_bytes(data[: len(data) // 2 if damage == "cut" else 0])
    with pytest.raises(EpisodeError, match=r"episode first: observation.images.hand_right: .*file-000.mp4"):
        LeRobotSource(folder, contract).episode("first")


def test_a_lost_frame_is_named_with_camera_and_instant(folder, contract):
    path = folder / layout.VIDEO_PATH.format(video_key="observation.images.head", chunk_index=0, file_index=0)
    begin_s = 40 / 30
    times = video.frame_times(path, begin_s, begin_s + 31 / 30)
    assert len(times) == 31
    with video.av.open(str(path)) as old, video.av.open(str(path) + ".mp4", "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(old.streams.video[0]):
            if packet.dts is None or 49 <= round(float(packet.pts * packet.time_base) * 30) <= 50:
                continue  # steps 9 and 10 of the second episode
            packet.stream = stream
            new.mux(packet)
    Path(str(path) + ".mp4").replace(path)
    with pytest.raises(EpisodeError, match=r"episode second: observation.images.head: nothing at 0.300 s, .* 20.0 ms"):
        LeRobotSource(folder, contract).episode("second")


def test_what_the_writer_is_given_is_checked(tmp_path, contract, recorded):
    made = recorded(steps=4)
    with LeRobotWriter(tmp_path / "set", contract) as writer:
        with pytest.raises(EpisodeError, match="episode first: camera head has no image at step 0"):
            writer.add(type(made)("first", ("x",), made.state, made.action, lambda steps: ({} for _ in steps)))
        with pytest.raises(EpisodeError, match=r"action of idx22_arm_l_joint2 is inf at step 1"):
            made.action[1, 1] = np.inf
            writer.add(made)
        with pytest.raises(EpisodeError, match="instructions"):
            writer.add(recorded("second", 4, ("",)))
        with pytest.raises(EpisodeError, match="cannot be a file name"):
            writer.add(recorded("../up", 4))
        assert len(writer) == 0
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(EpisodeError, match="is not empty"):
        LeRobotWriter(tmp_path / "other", contract)


def test_frames_keep_their_size(folder, contract):
    assert LeRobotSource(folder, contract).cameras()["head"] == (HEIGHT_PX, WIDTH_PX)
