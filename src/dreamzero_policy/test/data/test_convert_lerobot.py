"""A LeRobot data set as bags: what a robot of the contract would have recorded, which reads back as it was."""

from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from dreamzero_policy.cli import convert_data as room
from dreamzero_policy.data.bag_conversion import BagOptions
from dreamzero_policy.data.bag_files import OpenBag
from dreamzero_policy.data.bags import BagReading, BagSource
from dreamzero_policy.data.episodes import EpisodeError
from dreamzero_policy.data.lerobot.reader import LeRobotSource, Matching
from dreamzero_policy.data.lerobot.writer import LeRobotWriter


@pytest.fixture
def lerobot(tmp_path, contract, recorded) -> Path:
    with LeRobotWriter(tmp_path / "lerobot", contract) as writer:
        for name in ("a", "b"):
            writer.add(recorded(name, 30, ("touch the cube", "reach for the cube")))
    return tmp_path / "lerobot"


@pytest.fixture
def written(lerobot, tmp_path, contract):
    def run(pictures: str = "jpeg", processes: int = 1) -> tuple[dict, str]:
        said = StringIO()
        console = Console(file=said, width=400)
        document = room.lerobot_to_bags(lerobot, tmp_path / "bags", contract, Matching(), pictures, processes, console)
        room.report_episodes(document, console)
        return document, said.getvalue()

    return run


@pytest.mark.parametrize(("pictures", "off"), [("png", 0), ("raw", 0), ("jpeg", 2)])
def test_a_bag_gives_the_data_set_back(written, lerobot, tmp_path, contract, pictures, off):
    document, _ = written(pictures)
    assert (document["written"], document["refused"], document["steps"]) == (2, 0, 60)
    theirs, ours = LeRobotSource(lerobot, contract), BagSource(tmp_path / "bags", contract, BagReading("commands"))
    assert ours.names == theirs.names
    for name in ours.names:
        bag, row = ours.recording(name), theirs.recording(name)
        assert bag.instructions == row.instructions
        np.testing.assert_allclose(bag.state, row.state, atol=1e-9)
        np.testing.assert_allclose(bag.action, row.action, atol=1e-9)
        for seen, kept in zip(bag.images(range(30)), row.images(range(30)), strict=True):
            for camera in contract.model.cameras:
                assert np.abs(seen[camera].astype(int) - kept[camera]).max() <= off * 4
                assert np.abs(seen[camera].astype(int) - kept[camera]).mean() <= off


def test_topics_are_those_of_the_contract(written, tmp_path, contract):
    written()
    site = contract.site
    wanted = {f"/{camera.topic}/compressed" for camera in site.cameras.values()} | {f"/{site.joint_states.topic}"}
    wanted |= {f"/{controller.name}/joint_trajectory" for controller in site.controllers}
    with OpenBag(tmp_path / "bags" / "a") as bag:
        assert {connection.topic for connection in bag.connections} == wanted


def test_the_way_there_and_back_is_the_data_set_again(written, lerobot, tmp_path, contract):
    written("png", processes=2)
    document = room.bags_to_lerobot(
        tmp_path / "bags", tmp_path / "back", contract, BagOptions(), 2, Console(quiet=True)
    )
    assert room.sound(document) and document["episodes"] == 2
    assert {one["actions"] for one in document["by_bag"]} == {"commands"}
    theirs, ours = LeRobotSource(lerobot, contract), LeRobotSource(tmp_path / "back", contract)
    for name in theirs.names:
        np.testing.assert_allclose(ours.recording(name).state, theirs.recording(name).state, atol=1e-6)
        np.testing.assert_allclose(ours.recording(name).action, theirs.recording(name).action, atol=1e-6)


def test_an_interrupted_run_goes_on_and_bags_that_are_there_are_left_alone(written, tmp_path):
    written()
    kept = next((tmp_path / "bags" / "a").glob("*.mcap"))
    stamp = kept.stat().st_mtime_ns
    half = tmp_path / "bags" / ".staging" / "b"
    half.parent.mkdir()
    (tmp_path / "bags" / "b").rename(half)  # as a killed run leaves it
    document, _ = written()
    assert (document["written"], document["there_before"]) == (1, 1)
    assert kept.stat().st_mtime_ns == stamp and (tmp_path / "bags" / "b" / "metadata.yaml").is_file()
    assert not half.parent.exists()


def test_an_episode_that_cannot_be_read_is_told_and_leaves_no_bag(written, lerobot, tmp_path):
    video = next(lerobot.rglob("observation.images.head/chunk-000/*.mp4"))
    video.write_bytes(video.read_bytes()[:200])
    document, said = written()
    assert not room.sound(document) and document["refused"] == 2
    assert "not written: episode a: observation.images.head" in said
    assert not list((tmp_path / "bags").glob("*"))


def test_what_is_never_commanded_is_left_out_and_that_is_told(tmp_path, contract, recorded):
    recording = recorded("driven", 30)
    recording.action[:, len(contract.model.commanded_joints) :] = 0.3
    with LeRobotWriter(tmp_path / "set", contract) as writer:
        writer.add(recording)
    said = StringIO()
    document = room.lerobot_to_bags(
        tmp_path / "set", tmp_path / "out", contract, Matching(), "jpeg", 1, Console(file=said, width=200)
    )
    room.report_episodes(document, Console(file=said, width=200))
    assert document["left_out"] == pytest.approx(0.3)
    assert "actions without a topic (never commanded) were left out, of up to 0.300" in said.getvalue()


def test_a_folder_that_is_no_data_set_is_refused(tmp_path, contract):
    (tmp_path / "none").mkdir()
    with pytest.raises(EpisodeError, match=r"none is no LeRobot data set: it has no meta/info\.json"):
        room.lerobot_to_bags(tmp_path / "none", tmp_path / "out", contract, Matching(), "jpeg", 1, Console(quiet=True))
