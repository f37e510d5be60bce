"""What is wrong with a recording is told by topic and time; a replay never ends in a traceback."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from rosbags.rosbag2 import StoragePlugin

from dreamzero_policy.data.bag_files import OpenBag
from dreamzero_policy.data.episodes import EpisodeError

from ..data.conftest import BagMaker
from .conftest import BEGIN_NS, image, pose, said, write_said


def cut(bag: Path, into: Path, share: float) -> Path:
    """So much of a bag's MCAP file."""
    file = next(bag.glob("*.mcap"))
    into.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    return into


@pytest.mark.parametrize("share", [0.02, 0.0])
def test_a_file_that_holds_nothing_whole_is_refused_by_name(guided, play, tmp_path, share):
    with pytest.raises(EpisodeError, match=r"bag .*cut\.mcap cannot be read"):
        play(cut(guided, tmp_path / "cut.mcap", share), prompt="touch")


def test_a_bag_that_was_cut_off_is_replayed_up_to_there(guided, play, tmp_path):
    whole = play(guided, prompt="touch")
    document = play(cut(guided, tmp_path / "cut.mcap", 0.6), prompt="touch")
    assert 1 < len(document["chunks"]) < len(whole["chunks"])
    assert [c["hash"] for c in document["chunks"]] == [c["hash"] for c in whole["chunks"]][: len(document["chunks"])]
    (problem,) = document["problems"]["named"]
    assert problem["kind"] == "damage" and problem["topic"].endswith("cut.mcap")
    assert document["chunks"][-1]["stamp_s"] <= problem["time_s"] < whole["chunks"][-1]["stamp_s"]
    assert re.search(r"Read from its begin; \d+ bytes behind the last whole record are lost", problem["problem"])


def test_behind_broken_bytes_the_replay_goes_on(contract, play, tmp_path):
    with BagMaker(tmp_path / "bag", contract) as bag:
        write_said(bag, said(contract, 3.0))
    file = next((tmp_path / "bag").glob("*.mcap"))
    content = bytearray(file.read_bytes())
    half = len(content) // 2
    content[half : half + 65536] = b"\xff" * 65536
    file.write_bytes(content)
    document = play(tmp_path / "bag", prompt="touch")
    problem, *others = document["problems"]["named"]
    assert problem["kind"] == "damage" and 100.8 < problem["time_s"] < 102
    assert re.search(r"is damaged behind /\S+ at 101\.\d+ s up to 10[12]\.\d+ s: ", problem["problem"])
    assert [other["kind"] for other in others] == ["gap"]
    stamps = [chunk["stamp_s"] for chunk in document["chunks"]]
    assert stamps[:2] == pytest.approx([100.0, 100.8], abs=0.01) and len(stamps) > 2 and stamps[2] > 101.5


@pytest.mark.parametrize("plugin", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
def test_a_folder_without_metadata_is_read_file_by_file_and_that_is_told(contract, play, tmp_path, plugin):
    with BagMaker(tmp_path / "bag", contract, plugin) as bag:
        write_said(bag, said(contract, 2.0))
    whole = play(tmp_path / "bag", prompt="touch")
    (tmp_path / "bag" / "metadata.yaml").unlink()
    document = play(tmp_path / "bag", prompt="touch")
    assert document["chunk_hash"] == whole["chunk_hash"]
    (problem,) = document["problems"]["named"]
    assert problem["kind"] == "damage" and problem["time_s"] == pytest.approx(100.0, abs=0.01)
    assert re.fullmatch(r"metadata\.yaml is missing; read from bag\.\w+", problem["problem"])


def test_metadata_that_are_no_yaml_are_told_and_done_without(guided, play, tmp_path):
    shutil.copytree(guided, tmp_path / "guided")
    (tmp_path / "guided" / "metadata.yaml").write_text("rosbag2_bagfile_information: [")
    document = play(tmp_path / "guided", prompt="touch")
    assert document["chunk_hash"] == play(guided, prompt="touch")["chunk_hash"]
    assert "Could not load YAML" in document["problems"]["named"][0]["problem"]


def test_files_of_several_bags_are_not_taken_for_one(guided, play, tmp_path):
    for name in ("one", "two"):
        shutil.copy(next(guided.glob("*.mcap")), tmp_path / f"{name}.mcap")
    with pytest.raises(EpisodeError, match=r"has no metadata\.yaml and files of several names; give one of them"):
        play(tmp_path, prompt="touch")


@pytest.fixture
def database(contract, tmp_path) -> Path:
    """A bag of three seconds in SQLite."""
    with BagMaker(tmp_path / "bag", contract, StoragePlugin.SQLITE3) as bag:
        write_said(bag, said(contract, 3.0))
    return tmp_path / "bag"


def rewrite(bag: Path, change: Callable[[bytearray], None]) -> None:
    file = next(bag.glob("*.db3"))
    content = bytearray(file.read_bytes())
    change(content)
    file.write_bytes(content)


def test_a_database_that_was_cut_off_is_replayed_up_to_there(database, play):
    whole = play(database, prompt="touch")
    rewrite(database, lambda content: content.__delitem__(slice(int(0.6 * len(content)), None)))
    document = play(database, prompt="touch")
    assert 1 < len(document["chunks"]) < len(whole["chunks"])
    assert [c["hash"] for c in document["chunks"]] == [c["hash"] for c in whole["chunks"]][: len(document["chunks"])]
    problem = next(one for one in document["problems"]["named"] if one["topic"].endswith("bag.db3"))
    assert problem["kind"] == "damage" and 101 < problem["time_s"] < 102.5
    assert re.search(r"Damaged behind 10[12]\.\d+ s; and nothing behind it can be read", problem["problem"])


def test_behind_broken_pages_of_a_database_the_replay_goes_on(database, play):
    def spoil(content: bytearray) -> None:
        half = len(content) // 2 // 4096 * 4096
        content[half : half + 16 * 4096] = b"\xff" * 16 * 4096

    rewrite(database, spoil)
    document = play(database, prompt="touch")
    problem = next(one for one in document["problems"]["named"] if one["topic"].endswith("bag.db3"))
    assert problem["kind"] == "damage" and 101 < problem["time_s"] < 102
    assert re.search(r"Damaged behind 101\.\d+ s; \d+ messages up to 10[12]\.\d+ s are lost", problem["problem"])
    assert document["chunks"][-1]["stamp_s"] > 102


def test_a_database_without_a_page_that_can_be_read_is_told_and_never_a_traceback(database, play):
    rewrite(database, lambda content: content.__setitem__(slice(0, None), b"\xff" * len(content)))
    with pytest.raises(EpisodeError, match="cannot be read"):
        play(database, prompt="touch")


def test_a_mistake_of_this_program_is_not_taken_for_damage(guided, contract):
    with pytest.raises(RuntimeError, match="ours"), OpenBag(guided):
        raise RuntimeError("ours")


def test_a_path_that_is_nothing_or_no_bag_is_refused(play, tmp_path):
    with pytest.raises(EpisodeError, match=r"there is no bag .*nowhere"):
        play(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("none")
    with pytest.raises(EpisodeError, match=r"notes\.txt is no bag: expected a folder with metadata\.yaml"):
        play(tmp_path / "notes.txt")


def test_a_missing_topic_is_named_with_those_that_are_there(contract, play, tmp_path):
    with BagMaker(tmp_path / "bag", contract) as bag:
        write_said(bag, [message for message in said(contract, 1.0) if message.camera != "hand_left"])
    with pytest.raises(
        EpisodeError, match=r"camera hand_left is missing: no topic hand_left/color/image_raw/compr.*It has /hand"
    ):
        play(tmp_path / "bag", prompt="touch")


def test_a_bag_of_another_robot_is_refused_with_topic_time_and_joint(contract, play, tmp_path):
    with BagMaker(tmp_path / "bag", contract) as bag:
        for message in sorted(said(contract, 1.0), key=lambda message: message.recorded_ns):
            if message.camera:
                bag.image(message.camera, message.stamp_ns, message.content)
            else:
                bag.joints(message.stamp_ns, {f"panda_joint{i}": 0.1 for i in range(7)})
    with pytest.raises(
        EpisodeError, match=r"/joint_states at 100\.0.. s: .*joint idx21_arm_l_joint1 is absent .*another robot\?"
    ):
        play(tmp_path / "bag", prompt="touch")


def test_cameras_of_another_size_are_told_with_both_sizes(contract, play, tmp_path):
    with BagMaker(tmp_path / "bag", contract) as bag:
        for message in sorted(said(contract, 1.0), key=lambda message: message.recorded_ns):
            if message.camera:
                bag.image(message.camera, message.stamp_ns, message.content[:24])
            else:
                bag.joints(message.stamp_ns, message.content)
    with pytest.raises(EpisodeError, match=r"no chunk could be predicted.*image is 64 x 24 .*says 64 x 48 RGB"):
        play(tmp_path / "bag", prompt="touch")


def with_one_more(contract, folder: Path, write) -> Path:
    """Three seconds of sensors and, 1 s behind the begin, what `write` puts in."""
    with BagMaker(folder, contract) as bag:
        messages = said(contract, 3.0)
        write_said(bag, [m for m in messages if m.recorded_ns < BEGIN_NS + 1_000_000_000])
        write(bag)
        write_said(bag, [m for m in messages if m.recorded_ns >= BEGIN_NS + 1_000_000_000])
    return folder


def test_a_broken_message_is_told_with_topic_and_time_and_the_replay_goes_on(contract, play, tmp_path):
    def broken(bag: BagMaker) -> None:
        bag.serialised(
            "/joint_states", "sensor_msgs/msg/JointState", BEGIN_NS + 1_000_000_000, b"\x00\x01\x00\x00\xff\xff"
        )

    document = play(with_one_more(contract, tmp_path / "bag", broken), prompt="touch")
    problem = document["problems"]["named"][0]
    assert (problem["kind"], problem["topic"], problem["time_s"]) == ("damage", "/joint_states", 101.0)
    assert problem["problem"].startswith("cannot be read: ")
    assert len(document["chunks"]) == 4  # as without it


def test_a_picture_that_is_none_is_told_with_its_camera(contract, play, tmp_path):
    frames = [m for m in said(contract, 3.0) if m.camera == "head"]
    victim = min(frames, key=lambda message: abs(message.stamp_ns - BEGIN_NS - 800_000_000))
    with BagMaker(tmp_path / "bag", contract) as bag:
        for message in sorted(said(contract, 3.0), key=lambda message: message.recorded_ns):
            if message.camera and message.stamp_ns == victim.stamp_ns and message.camera == "head":
                topic, kind = "/head/color/image_raw/compressed", "sensor_msgs/msg/CompressedImage"
                data = image(0, 0).ravel()[:50]
                bag.write(topic, kind, message.stamp_ns, format="jpeg", data=data)
            elif message.camera:
                bag.image(message.camera, message.stamp_ns, message.content)
            else:
                bag.joints(message.stamp_ns, message.content)
    document = play(tmp_path / "bag", prompt="touch")
    problem = document["problems"]["named"][0]
    assert (problem["kind"], problem["topic"]) == ("damage", "/head/color/image_raw/compressed")
    assert problem["problem"].startswith("camera head: compressed image of format 'jpeg', 50 bytes, cannot be decoded")


def test_a_joint_that_is_not_a_number_is_told_and_left_out(contract, play, tmp_path):
    def nan(bag: BagMaker) -> None:
        positions = pose(contract, 1.0) | {"idx61_arm_r_joint1": float("nan")}
        bag.joints(BEGIN_NS + 999_000_000, positions)

    document = play(with_one_more(contract, tmp_path / "bag", nan), prompt="touch")
    problem = document["problems"]["named"][0]
    assert (problem["kind"], problem["topic"]) == ("damage", "/joint_states")
    assert "position of idx61_arm_r_joint1 is nan" in problem["problem"]


def test_stamps_that_run_backwards_are_told_and_left_out_as_the_node_does(contract, play, tmp_path):
    def late(bag: BagMaker) -> None:
        bag.joints(BEGIN_NS + 500_000_000, pose(contract, 0.5), late_ns=500_000_000)

    document = play(with_one_more(contract, tmp_path / "bag", late), prompt="touch")
    problem = document["problems"]["named"][0]
    assert (problem["kind"], problem["topic"], problem["time_s"]) == ("damage", "/joint_states", 100.5)
    assert "stamps do not increase" in problem["problem"]
    assert document["problems"]["damage"] == 1


def test_a_clock_that_was_set_back_begins_a_new_epoch(contract, play, tmp_path):
    back_ns = 50_000_000_000
    with BagMaker(tmp_path / "bag", contract) as bag:
        write_said(bag, said(contract, 2.0))
        for message in sorted(said(contract, 2.0), key=lambda message: message.recorded_ns):
            stamp_ns, late_ns = message.stamp_ns - back_ns, back_ns + 3_000_000_000
            write = bag.image if message.camera else bag.joints
            arguments = (message.camera, stamp_ns) if message.camera else (stamp_ns,)
            write(*arguments, message.content, late_ns)
    document = play(tmp_path / "bag", prompt="touch")
    stamps = [chunk["stamp_s"] for chunk in document["chunks"]]
    assert len([stamp for stamp in stamps if stamp > 99]) == 3
    assert len([stamp for stamp in stamps if stamp < 60]) >= 2
    assert len({chunk["epoch"] for chunk in document["chunks"]}) == 2
    assert any("stamps do not increase" in problem["problem"] for problem in document["problems"]["named"])
