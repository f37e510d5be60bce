"""What bags promise: training takes from a recording exactly what live operation would have seen in it."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin

from dreamzero_policy.data.bag_messages import image_decoder
from dreamzero_policy.data.bags import BagReading, BagSource
from dreamzero_policy.data.episodes import EpisodeError
from dreamzero_policy.data.windows import window
from dreamzero_policy.runtime.contract import Contract
from dreamzero_policy.runtime.embodiment import without_statistics
from dreamzero_policy.runtime.observation import NS_PER_S, ObservationBuffer

from .conftest import TYPES, BagMaker, message, picture

BEGIN_NS = 100 * NS_PER_S
GUIDED = BagReading("next_state", "touch the cube")
SECONDS = 2.4


def radians(contract: Contract, seconds: float) -> dict[str, float]:
    """Joint positions that tell the time; grippers move between their stops."""
    positions = {joint: 0.1 * seconds + i / 100 for i, joint in enumerate(contract.model.state_joints)}
    for joint, stops in contract.site.grippers.items():
        positions[joint] = stops.open_rad + 0.2 * seconds * (stops.closed_rad - stops.open_rad)
    return positions


def messages(contract: Contract, seconds: float = SECONDS) -> list[tuple]:
    """Stamp and content of what sensors said, in the order of the stamps: 30 Hz images with jitter, 100 Hz joints."""
    rng = np.random.default_rng(0)
    found = []
    for i, camera in enumerate(contract.model.cameras):
        for step in range(int(seconds * 30) + 1):
            stamp_ns = BEGIN_NS + round(step * NS_PER_S / 30) + int(rng.uniform(-8e6, 8e6))
            found.append((stamp_ns, camera, picture(i, step)))
    for tick in range(int(seconds * 100) + 3):
        stamp_ns = BEGIN_NS + tick * 10_000_000 + int(rng.uniform(-2e6, 2e6))
        found.append((stamp_ns, "", radians(contract, (stamp_ns - BEGIN_NS) / NS_PER_S)))
    return sorted(found, key=lambda item: item[0])


def write_sensors(bag: BagMaker, contract: Contract, seconds: float = SECONDS, without: str = "none") -> None:
    for stamp_ns, camera, content in messages(contract, seconds):
        if camera == without:
            continue
        if camera:
            bag.image(camera, stamp_ns, content)
        else:
            bag.joints(stamp_ns, content)


def write_commands(bag: BagMaker, contract: Contract, at_ns: int, target: float) -> None:
    """Every controller is told to go to `target` within a second, in a straight line."""
    for controller in contract.site.controllers:
        count = len(controller.joints)
        bag.trajectory(controller.name, at_ns, controller.joints, [(1.0, [target] * count, [])])


@pytest.fixture
def guided(tmp_path: Path, contract: Contract) -> Path:
    with BagMaker(tmp_path / "guided", contract) as bag:
        write_sensors(bag, contract)
    return tmp_path / "guided"


@pytest.mark.parametrize("plugin", list(StoragePlugin))
def test_live_and_training_alignment_agree_frame_by_frame(tmp_path, contract, plugin):
    with BagMaker(tmp_path / "bag", contract, plugin) as bag:
        write_sensors(bag, contract)
    robot = without_statistics(contract)
    trained = window(robot, BagSource(tmp_path / "bag", contract, GUIDED).episode("bag"), anchor=0, chunks=2)
    live, blocks, offsets = ObservationBuffer(robot), [], contract.model.chunk.frame_offsets_steps
    begin_ns = max(next(m[0] for m in messages(contract) if m[1] == source) for source in (*contract.model.cameras, ""))
    due = [(begin_ns, (0,))] + [(begin_ns + round(k * 24 * NS_PER_S / 30), offsets) for k in (1, 2)]
    for stamp_ns, camera, content in messages(contract):  # the live node: a block as soon as it is covered
        if camera:
            live.add_image(camera, stamp_ns, stamp_ns, lambda content=content: content)
        else:
            live.add_joint_state(stamp_ns, stamp_ns, list(content), list(content.values()))
        while due and live.covers(due[0][0]):
            blocks.append(live.block(*due.pop(0)))
    assert len(blocks) == 3
    np.testing.assert_array_equal(trained.canvas, np.concatenate([block.canvas for block in blocks]))
    np.testing.assert_array_equal(trained.state, robot.normalised_state(np.stack([b.state for b in blocks[:2]])))


def test_without_commands_the_next_state_is_the_action_and_only_if_asked(guided, contract):
    episode = BagSource(guided, contract, GUIDED).episode("guided")
    commanded = len(contract.model.commanded_joints)
    np.testing.assert_array_equal(episode.action[:-1, :commanded], episode.state[1:])
    assert not episode.action[:, commanded:].any()
    with pytest.raises(EpisodeError, match=r"dual_arm_controller is missing.*--actions next_state"):
        BagSource(guided, contract, BagReading("commands", "touch")).episode("guided")


def test_the_action_is_the_command_that_was_in_execution(tmp_path, contract):
    with BagMaker(tmp_path / "bag", contract) as bag:
        write_sensors(bag, contract)
        for controller in contract.site.controllers:
            count = len(controller.joints)
            straight = [(0.1, [0.1] * count, [1.0] * count), (1.1, [0.6] * count, [0.0] * count)]
            bag.trajectory(controller.name, BEGIN_NS + 200_000_000, controller.joints, straight)
        write_commands(bag, contract, BEGIN_NS + 1_800_000_000, 0.0)
    recording = BagSource(tmp_path / "bag", contract, BagReading("commands", "touch")).recording("bag")
    # The grid begins with the first command, received at 0.2 s; two messages of different kinds of joints are checked.
    arm = recording.action[:, 0]
    assert arm[0] == pytest.approx(0.1, abs=1e-9)  # nothing was commanded before: the first point
    middle = 18  # 0.6 s later, half way between the points: Hermite with slopes 1 and 0 over 1 s
    assert arm[middle] == pytest.approx(0.1 + 0.5 * 0.5 + 1.0 / 8, abs=1e-6)
    assert arm[40] == pytest.approx(0.6)  # after the last point it stays there
    assert arm[48 + 15] == pytest.approx(0.3, abs=1e-6)  # half way of the second trajectory, from where it was to 0
    gripper = contract.site.grippers["idx41_gripper_l_outer_joint1"]
    fraction = (0.6 - gripper.open_rad) / (gripper.closed_rad - gripper.open_rad)
    assert recording.action[40, 14] == pytest.approx(fraction)


def test_a_run_of_the_policy_is_one_episode_for_each_prompt(tmp_path, contract):
    with BagMaker(tmp_path / "run", contract) as bag:
        write_sensors(bag, contract)
        write_commands(bag, contract, BEGIN_NS, 0.5)
        first, second = BEGIN_NS + 100_000_000, BEGIN_NS + 1_300_000_000
        bag.chunk(first, "touch the cube", first + 100_000_000)
        bag.chunk(second - 1, "lift the bowl", second, epoch=1, verdict=3)  # rejected: nothing came of it
        bag.chunk(second, "lift the bowl", second + 100_000_000, epoch=1)
    source = BagSource(tmp_path / "run", contract)
    assert source.names == ("run.0", "run.1")
    episodes = [source.recording(name) for name in source.names]
    assert [episode.instructions for episode in episodes] == [("touch the cube",), ("lift the bowl",)]
    assert [episode.steps for episode in episodes] == [28, 28]  # observation to the end of the 24 rows: 0.9 s
    assert episodes[1].state[0, 0] == pytest.approx(0.1 * 1.3, abs=1e-3)


def test_before_the_first_command_there_is_no_step_and_the_grid_stays_that_of_the_observations(tmp_path, contract):
    first_ns = BEGIN_NS + 100_000_000
    with BagMaker(tmp_path / "run", contract) as bag:
        write_sensors(bag, contract)
        write_commands(bag, contract, first_ns + 250_000_000, 0.5)  # 7.5 steps after the observation
        bag.chunk(first_ns, "touch the cube", first_ns + 250_000_000)
    recording = BagSource(tmp_path / "run", contract).recording("run.0")
    assert recording.steps == 31 - 8 + 1  # 250 ms and 24 rows are 31 steps and a half; the first 8 are left out
    assert recording.state[0, 0] == pytest.approx(0.1 * (0.1 + 8 / 30), abs=1e-3)
    assert recording.action[0, 0] == pytest.approx(0.5)  # nothing was commanded before: the first point


def test_phrasings_come_from_the_file_beside_the_bag(guided, contract):
    (guided / "instructions.txt").write_text("touch the cube\n\nreach for the cube\n")
    source = BagSource(guided, contract, BagReading("next_state"))
    assert source.recording("guided").instructions == ("touch the cube", "reach for the cube")


def test_a_bag_that_does_not_say_what_was_done_is_refused(guided, contract):
    with pytest.raises(EpisodeError, match=r"guided does not say what was done.*--instruction.*instructions\.txt"):
        BagSource(guided, contract, BagReading("next_state")).names  # noqa: B018


def test_a_missing_camera_is_named_with_what_there_is(tmp_path, contract):
    with BagMaker(tmp_path / "bag", contract) as bag:
        write_sensors(bag, contract, without="hand_left")
    with pytest.raises(EpisodeError, match=r"episode bag: camera hand_left is missing.*It has /hand_right/color"):
        BagSource(tmp_path / "bag", contract, GUIDED).episode("bag")


def test_a_gap_between_frames_is_named_with_camera_and_instant(tmp_path, contract):
    with BagMaker(tmp_path / "bag", contract) as bag:
        for stamp_ns, camera, content in messages(contract):
            lost = camera == "head" and BEGIN_NS + 990_000_000 < stamp_ns < BEGIN_NS + 1_110_000_000
            if camera and not lost:
                bag.image(camera, stamp_ns, content)
            elif not camera:
                bag.joints(stamp_ns, content)
    with pytest.raises(EpisodeError, match=r"episode bag: .*camera head: no frame at 101\.\d+ s.*tolerance 20\.0 ms"):
        BagSource(tmp_path / "bag", contract, GUIDED).episode("bag")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda p: p.pop("idx61_arm_r_joint1"), r"episode bag: .*joint_states: joint idx61_arm_r_joint1 is absent"),
        (lambda p: p.update(idx61_arm_r_joint1=np.nan), r"episode bag: .*idx61_arm_r_joint1 is nan, a finite number"),
    ],
)
def test_a_joint_that_is_absent_or_not_a_number_is_named(tmp_path, contract, change, complaint):
    with BagMaker(tmp_path / "bag", contract) as bag:
        for stamp_ns, camera, content in messages(contract):
            if camera:
                bag.image(camera, stamp_ns, content)
                continue
            if stamp_ns > BEGIN_NS + NS_PER_S:
                change(content)
            bag.joints(stamp_ns, content)
    with pytest.raises(EpisodeError, match=complaint):
        BagSource(tmp_path / "bag", contract, GUIDED).episode("bag")


def test_stamps_that_run_backwards_are_refused(tmp_path, contract):
    with BagMaker(tmp_path / "bag", contract) as bag:
        write_sensors(bag, contract)
        bag.joints(BEGIN_NS + NS_PER_S, radians(contract, 1.0), late_ns=2 * NS_PER_S)
    with pytest.raises(
        EpisodeError, match=r"episode bag: /joint_states at .*: stamps do not increase, 102.* followed by 101"
    ):
        BagSource(tmp_path / "bag", contract, GUIDED).episode("bag")


def test_a_damaged_bag_is_named_and_never_half_read(guided, contract):
    file = next(guided.glob("*.mcap"))
    whole = file.read_bytes()
    for kept in (len(whole) // 2, 100, 0):
        file.write_bytes(whole[:kept])
        with pytest.raises(EpisodeError, match="guided"):
            BagSource(guided, contract, GUIDED).episode("guided")


def test_commands_recorded_on_another_clock_than_the_stamps_are_refused(tmp_path, contract):
    with BagMaker(tmp_path / "bag", contract) as bag:
        for stamp_ns, camera, content in messages(contract):
            if camera:
                bag.image(camera, stamp_ns, content)
        for stamp_ns, camera, content in messages(contract):
            if not camera:
                bag.joints(stamp_ns, content, late_ns=5 * NS_PER_S)
        write_commands(bag, contract, BEGIN_NS, 0.5)
    with pytest.raises(EpisodeError, match=r"recorded \+5\.0 s after their stamps.*use_sim_time"):
        BagSource(tmp_path / "bag", contract, BagReading("commands", "touch")).episode("bag")


def test_two_bags_of_one_name_are_refused(guided, contract):
    shutil.copy(next(guided.glob("*.mcap")), guided.parent / "guided.mcap")
    with pytest.raises(EpisodeError, match="have one name, guided"):
        BagSource(guided.parent, contract, GUIDED).names  # noqa: B018


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8"])
def test_images_are_decoded_as_the_live_node_decodes_them(encoding):
    pytest.importorskip("rclpy")
    from sensor_msgs.msg import Image

    from dreamzero_policy.ros.messages import decoder

    image = picture(1, 7)
    height, width = image.shape[:2]
    fields = {"height": height, "width": width, "encoding": encoding, "step": 3 * width}
    kind = "sensor_msgs/msg/Image"
    data = bytes(TYPES.serialize_cdr(message(kind, data=image.ravel(), **fields), kind))
    ours = image_decoder("head", data, kind, TYPES)()
    np.testing.assert_array_equal(ours, decoder("head", Image(data=image.tobytes(), **fields))())
    np.testing.assert_array_equal(ours, image if encoding == "rgb8" else image[..., ::-1])
