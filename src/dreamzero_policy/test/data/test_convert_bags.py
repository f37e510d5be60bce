"""Bags into a LeRobot data set: what training from the bag itself would see, and what can be read of damaged ones."""

import shutil
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from rosbags.rosbag2 import CompressionMode, StoragePlugin

from dreamzero_policy.cli import convert_data as room
from dreamzero_policy.data.bag_conversion import BagOptions
from dreamzero_policy.data.bags import BagReading, BagSource
from dreamzero_policy.data.episodes import EpisodeError
from dreamzero_policy.data.lerobot.reader import LeRobotSource
from dreamzero_policy.data.lerobot.staging import Draft
from dreamzero_policy.runtime.observation import NS_PER_S

from .conftest import BagMaker
from .test_bags import BEGIN_NS, SECONDS, messages, radians, write_commands, write_sensors

TOUCH = BagOptions(instruction="touch the cube")
MIDDLE_NS = BEGIN_NS + 1_200_000_000
STEPS = 72  # of a whole run: 2.4 s, its begin a little late


@pytest.fixture
def bags(tmp_path) -> Path:
    (tmp_path / "bags").mkdir()
    return tmp_path / "bags"


@pytest.fixture
def converted(bags, tmp_path, contract):
    """Converts the bags; gives the document, what was printed, and the data set."""

    def run(options: BagOptions = TOUCH, processes: int = 1, to: str = "set") -> tuple[dict, str, LeRobotSource]:
        said = StringIO()
        console = Console(file=said, width=400)
        document = room.bags_to_lerobot(bags, tmp_path / to, contract, options, processes, console)
        room.report_bags(document, console)
        return document, said.getvalue(), LeRobotSource(tmp_path / to, contract) if document["episodes"] else None

    return run


def write_bag(
    folder: Path, contract, plugin=StoragePlugin.MCAP, zstd=CompressionMode.NONE, raw: bool = False, seconds=SECONDS
) -> None:
    """A run with commands."""
    with BagMaker(folder, contract, plugin, zstd) as bag:
        write_commands(bag, contract, BEGIN_NS, 0.5)
        for stamp_ns, camera, content in messages(contract, seconds):
            if camera:
                (bag.raw_image if raw else bag.image)(camera, stamp_ns, content)
            else:
                bag.joints(stamp_ns, content)


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize(
    ("plugin", "zstd"),
    [
        (StoragePlugin.MCAP, CompressionMode.NONE),
        (StoragePlugin.MCAP, CompressionMode.STORAGE),
        (StoragePlugin.MCAP, CompressionMode.MESSAGE),
        (StoragePlugin.SQLITE3, CompressionMode.NONE),
        (StoragePlugin.SQLITE3, CompressionMode.MESSAGE),
        (StoragePlugin.SQLITE3, CompressionMode.FILE),
    ],
)
def test_a_bag_of_any_storage_becomes_the_episode_that_training_reads_from_it(
    bags, converted, contract, plugin, zstd, raw
):
    write_bag(bags / "run", contract, plugin, zstd, raw)
    document, _, source = converted()
    assert room.sound(document) and (document["episodes"], document["gaps"]) == (1, 0)
    direct = BagSource(bags, contract, BagReading("commands", "touch the cube")).recording("run")
    through = source.recording("run")
    assert through.instructions == ("touch the cube",)
    np.testing.assert_array_equal(through.state, direct.state.astype(np.float32))
    np.testing.assert_array_equal(through.action, direct.action.astype(np.float32))
    for step in (0, direct.steps - 1):
        ours, theirs = next(through.images([step])), next(direct.images([step]))
        for camera in contract.model.cameras:  # H.264 changes a level or two
            assert np.abs(ours[camera].astype(int) - theirs[camera]).mean() < 3


def test_a_bag_without_commands_takes_the_next_states_and_says_so(bags, converted, contract):
    with BagMaker(bags / "guided", contract) as bag:
        write_sensors(bag, contract)
    document, said, source = converted()
    assert room.sound(document)
    assert document["by_bag"][0]["actions"] == "next_state"
    assert "guided: no joint commands (no topic dual_arm_controller/joint_trajectory); its actions are the next" in said
    recording = source.recording("guided")
    commanded = len(contract.model.commanded_joints)
    np.testing.assert_array_equal(recording.action[:-1, :commanded], recording.state[1:])


def test_commands_that_are_asked_for_are_not_made_up(bags, converted, contract):
    with BagMaker(bags / "guided", contract) as bag:
        write_sensors(bag, contract)
    document, said, _ = converted(replace(TOUCH, actions="commands"))
    assert not room.sound(document) and document["episodes"] == 0
    assert "guided was not converted: controller dual_arm_controller is missing" in said


def test_several_processes_make_the_same_data_set_as_one(bags, converted, contract, tmp_path):
    for name in ("a", "b"):
        write_bag(bags / name, contract)
    (one, _, alone), (two, _, together) = converted(), converted(processes=2, to="other")
    assert one["episodes"] == two["episodes"] == 2 and alone.names == together.names
    for name in alone.names:
        np.testing.assert_array_equal(alone.recording(name).action, together.recording(name).action)
    for path in (tmp_path / "set").rglob("*.mp4"):
        assert path.read_bytes() == (tmp_path / "other" / path.relative_to(tmp_path / "set")).read_bytes()


def test_an_interrupted_conversion_goes_on_with_whole_episodes(bags, converted, contract, tmp_path, monkeypatch):
    for name in ("a", "b"):
        write_bag(bags / name, contract)
    whole, _, source = converted(to="whole")
    add = Draft.add

    def interrupted(draft: Draft, *step) -> None:
        if draft.name == "b" and draft.steps == 20:
            raise KeyboardInterrupt
        add(draft, *step)

    monkeypatch.setattr(Draft, "add", interrupted)
    with pytest.raises(KeyboardInterrupt):
        converted()
    assert LeRobotSource(tmp_path / "set", contract).names == ("a",)
    monkeypatch.setattr(Draft, "add", add)
    document, _, again = converted()
    assert (document["there_before"], document["episodes"], document["steps"]) == (1, 2, whole["steps"])
    assert again.names == source.names
    np.testing.assert_array_equal(again.recording("b").state, source.recording("b").state)


def test_a_bag_that_was_converted_is_not_read_again_and_stays_what_it_was(bags, converted, contract):
    write_bag(bags / "run", contract)
    converted()
    file = next((bags / "run").glob("*.mcap"))
    content = file.read_bytes()
    file.write_bytes(b"\0" * len(content))  # of the same size: it would be refused if it were read
    document, _, _ = converted()
    assert room.sound(document) and (document["there_before"], document["episodes"]) == (1, 1)
    with pytest.raises(EpisodeError, match=r"with options .*'auto'.*, now .*'next_state'.*; name another folder"):
        converted(replace(TOUCH, actions="next_state"))
    file.write_bytes(content[:-1])
    with pytest.raises(EpisodeError, match=r"with bytes \d+, now \d+; name another folder"):
        converted()


# Damage


def test_of_a_file_that_was_cut_off_the_whole_part_becomes_an_episode(bags, converted, contract):
    write_bag(bags / "whole", contract, raw=True)
    shutil.copytree(bags / "whole", bags / "cut")
    file = next((bags / "cut").glob("*.mcap"))
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 3 // 4])
    document, said, source = converted()
    assert not room.sound(document) and (document["refused"], document["episodes"]) == (0, 2)
    cut, whole = source.recording("cut"), source.recording("whole")
    assert 25 <= cut.steps < whole.steps
    np.testing.assert_array_equal(cut.state, whole.state[: cut.steps])
    np.testing.assert_array_equal(cut.action, whole.action[: cut.steps])
    assert "bytes behind the last whole record are lost" in said


def test_a_bag_without_metadata_is_converted_and_that_is_told(bags, converted, contract):
    write_bag(bags / "run", contract)
    (bags / "run" / "metadata.yaml").unlink()
    document, said, source = converted()
    assert not room.sound(document) and source.names == ("run",)
    assert "metadata.yaml is missing; read from run.mcap" in said


def test_files_of_a_split_bag_without_metadata_are_read_in_the_order_of_their_numbers(bags, converted, contract):
    (bags / "run").mkdir()
    said = messages(contract)
    for number, (begin, end) in ((9, (0, len(said) // 2)), (10, (len(said) // 2, len(said)))):
        with BagMaker(bags.parent / f"part_{number}", contract) as bag:
            if number == 9:
                write_commands(bag, contract, BEGIN_NS, 0.5)
            for stamp_ns, camera, content in said[begin:end]:
                (bag.image if camera else bag.joints)(*((camera,) if camera else ()), stamp_ns, content)
        shutil.move(bags.parent / f"part_{number}" / f"part_{number}.mcap", bags / "run" / f"run_{number}.mcap")
    document, said, source = converted()
    assert source.names == ("run",) and source.recording("run").steps == STEPS
    assert (document["damage"], document["gaps"]) == (1, 0) and "read from run_9.mcap, run_10.mcap" in said


def test_behind_a_stretch_that_cannot_be_read_another_episode_begins(bags, converted, contract):
    write_bag(bags / "run", contract, raw=True, seconds=6.0)
    file = next((bags / "run").glob("*.mcap"))
    content = bytearray(file.read_bytes())
    half = len(content) // 2
    content[half : half + 40_000] = b"\xff" * 40_000
    file.write_bytes(content)
    document, said, source = converted()
    assert source.names == ("run", "run#1") and document["damage"] >= 1
    assert "is damaged behind /" in said and "up to 10" in said
    first, second = (source.recording(name) for name in source.names)
    assert 120 < first.steps + second.steps < 181
    assert second.state[0, 0] - first.state[-1, 0] > 0.1 * 2 / 30  # it moves by 0.1 rad a second: steps are missing


def write_with(folder: Path, contract, extra) -> None:
    """Sensors and commands, and what `extra` writes in the middle."""
    with BagMaker(folder, contract) as bag:
        write_commands(bag, contract, BEGIN_NS, 0.5)
        said = messages(contract)
        for behind in (False, True):
            for stamp_ns, camera, content in said:
                if (stamp_ns >= MIDDLE_NS) == behind:
                    (bag.image if camera else bag.joints)(*((camera,) if camera else ()), stamp_ns, content)
            if not behind:
                extra(bag)


@pytest.mark.parametrize(
    ("topic", "kind", "complaint"),
    [
        ("/joint_states", "sensor_msgs/msg/JointState", "cannot be read: "),
        ("/dual_arm_controller/joint_trajectory", "trajectory_msgs/msg/JointTrajectory", "cannot be read: "),
    ],
)
def test_a_broken_message_is_left_out_and_told_with_topic_and_time(bags, converted, contract, topic, kind, complaint):
    write_with(bags / "run", contract, lambda bag: bag.serialised(topic, kind, MIDDLE_NS, b"\x00\x01\x00\x00\xff\xff"))
    document, said, source = converted()
    assert not room.sound(document) and source.names == ("run",)
    (problem,) = document["by_bag"][0]["problems"]
    assert (problem["kind"], problem["topic"], problem["time_s"]) == ("damage", topic, MIDDLE_NS / NS_PER_S)
    assert problem["problem"].startswith(complaint) and topic in said
    assert source.recording("run").steps > 65


def test_a_picture_that_is_none_ends_an_episode_and_is_told_with_its_camera(bags, converted, contract):
    frames = [m for m in messages(contract) if m[1] == "head"]
    victim_ns = min((m[0] for m in frames), key=lambda stamp_ns: abs(stamp_ns - MIDDLE_NS))
    with BagMaker(bags / "run", contract) as bag:
        write_commands(bag, contract, BEGIN_NS, 0.5)
        for stamp_ns, camera, content in messages(contract):
            if camera == "head" and stamp_ns == victim_ns:
                topic, kind = "/head/color/image_raw/compressed", "sensor_msgs/msg/CompressedImage"
                bag.write(topic, kind, stamp_ns, format="jpeg", data=np.arange(50, dtype=np.uint8))
            else:
                (bag.image if camera else bag.joints)(*((camera,) if camera else ()), stamp_ns, content)
    document, _, source = converted()
    (problem,) = document["by_bag"][0]["problems"]
    assert (problem["kind"], problem["topic"]) == ("damage", "/head/color/image_raw/compressed")
    assert problem["time_s"] == victim_ns / NS_PER_S
    assert source.names == ("run", "run#1")
    assert sum(source.recording(name).steps for name in source.names) == STEPS - 1


def test_lost_frames_end_an_episode_and_pieces_too_short_for_a_chunk_are_left_out(bags, converted, contract):
    with BagMaker(bags / "run", contract) as bag:
        write_commands(bag, contract, BEGIN_NS, 0.5)
        for stamp_ns, camera, content in messages(contract):
            if camera == "head" and 300_000_000 < stamp_ns - BEGIN_NS < 500_000_000:
                continue
            (bag.image if camera else bag.joints)(*((camera,) if camera else ()), stamp_ns, content)
    document, said, source = converted()
    assert room.sound(document) and document["gaps"] == 2  # frames get lost on healthy robots
    assert "/head/color/image_raw/compressed at 100.3" in said and "camera head: no frame at" in said
    assert "steps in pieces of less than 25 are left out" in said
    assert source.names == ("run",) and 55 < source.recording("run").steps < 60


def test_a_camera_that_falls_silent_ends_the_episode_and_is_told(bags, converted, contract):
    with BagMaker(bags / "run", contract) as bag:
        write_commands(bag, contract, BEGIN_NS, 0.5)
        for stamp_ns, camera, content in messages(contract):
            if camera != "head" or stamp_ns < MIDDLE_NS:
                (bag.image if camera else bag.joints)(*((camera,) if camera else ()), stamp_ns, content)
    document, said, source = converted()
    (problem,) = document["by_bag"][0]["problems"]
    assert (problem["kind"], problem["topic"]) == ("gap", "/head/color/image_raw/compressed")
    assert "camera head: silent from here on; 1." in said and "s of the others are left out" in said
    assert 30 <= source.recording("run").steps <= 37


def test_a_prompt_of_which_nothing_was_recorded_is_told_and_the_others_are_converted(bags, converted, contract):
    with BagMaker(bags / "run", contract) as bag:
        write_commands(bag, contract, BEGIN_NS, 0.5)
        write_sensors(bag, contract)
        bag.chunk(BEGIN_NS + 100_000_000, "touch the cube", BEGIN_NS + 200_000_000)
        later_ns = BEGIN_NS + 60 * NS_PER_S
        bag.chunk(later_ns, "lift the bowl", later_ns, epoch=1)
    _, said, source = converted(BagOptions())
    assert source.names == ("run.0",) and source.recording("run.0").instructions == ("touch the cube",)
    assert "at 160.000000 s: episode run.1: none of its instants has everything; it is left out" in said


def test_stamps_that_run_backwards_are_left_out_and_told(bags, converted, contract):
    late_ns = BEGIN_NS + 900_000_000
    write_with(bags / "run", contract, lambda bag: bag.joints(late_ns, radians(contract, 0.0), MIDDLE_NS - late_ns))
    document, _, source = converted()
    (problem,) = document["by_bag"][0]["problems"]
    assert (problem["kind"], problem["topic"], problem["time_s"]) == ("damage", "/joint_states", late_ns / NS_PER_S)
    assert "stamps do not increase" in problem["problem"]
    assert (np.diff(source.recording("run").state[:, 0]) > 0).all()


def test_a_missing_topic_and_another_robot_are_refused_by_name_and_the_others_converted(bags, converted, contract):
    write_bag(bags / "fine", contract)
    with BagMaker(bags / "blind", contract) as bag:
        write_sensors(bag, contract, without="hand_left")
    with BagMaker(bags / "other", contract) as bag:
        for stamp_ns, camera, content in messages(contract):
            if camera:
                bag.image(camera, stamp_ns, content)
            else:
                bag.joints(stamp_ns, {f"panda_joint{i}": 0.1 for i in range(7)})
    with BagMaker(bags / "small", contract) as bag:
        for stamp_ns, camera, content in messages(contract):
            if camera:
                bag.image(camera, stamp_ns, content[:24])
            else:
                bag.joints(stamp_ns, content)
    (bags / "empty.mcap").write_bytes(b"")
    document, said, source = converted()
    assert source.names == ("fine",) and document["refused"] == 4
    assert "blind was not converted: camera hand_left is missing: no topic hand_left/color/image_raw/compressed" in said
    assert "other was not converted: /joint_states at 100.0" in said and "another robot?" in said
    assert "small was not converted: /head/color" in said and "image is 64 x 24" in said
    assert "empty.mcap was not converted: bag" in said
    again, _, _ = converted()
    assert again["refused"] == 4  # what was refused is tried again


def test_a_clock_that_was_set_back_ends_what_is_read(bags, converted, contract):
    back_ns = 50 * NS_PER_S
    with BagMaker(bags / "run", contract) as bag:
        write_commands(bag, contract, BEGIN_NS, 0.5)
        write_sensors(bag, contract)
        for stamp_ns, camera, content in messages(contract):
            write = bag.image if camera else bag.joints
            write(*((camera,) if camera else ()), stamp_ns - back_ns, content, back_ns + 3 * NS_PER_S)
    document, said, source = converted()
    assert not room.sound(document) and source.names == ("run",) and source.recording("run").steps == STEPS
    assert "the clock was set back; nothing behind is read" in said
