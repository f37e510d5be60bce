"""A bag to be played: which topics under which names, when, and from where on; and the same told to `ros2 bag play`."""

from pathlib import Path

import numpy as np
import pytest

from dreamzero_policy.data.episodes import EpisodeError
from dreamzero_policy.replay.playback import Playback, play_command
from dreamzero_policy.runtime.contract import Contract
from dreamzero_policy.runtime.observation import NS_PER_S

from ..data.conftest import HEIGHT_PX, WIDTH_PX, BagMaker

BEGIN_NS, STEP_NS = 100 * NS_PER_S, NS_PER_S // 10


def write(folder: Path, contract: Contract, late_ns: int = 1_000_000, raw: str = "") -> Path:
    """A second at 10 Hz; camera `raw` is not compressed; a topic beside is none of the contract's."""
    with BagMaker(folder, contract) as bag:
        for step in range(10):
            stamp_ns = BEGIN_NS + step * STEP_NS
            bag.joints(stamp_ns, dict.fromkeys(contract.model.state_joints, 0.01 * step), late_ns)
            for camera in contract.model.cameras:
                picture = np.full((HEIGHT_PX, WIDTH_PX, 3), step, np.uint8)
                (bag.raw_image if camera == raw else bag.image)(camera, stamp_ns, picture, late_ns)
            bag.trajectory("elsewhere", stamp_ns, ["a"], [(0.1, [0.0], [0.0])])
    return folder


def test_what_a_policy_hears_is_played_in_order_under_relative_names(tmp_path: Path, contract: Contract) -> None:
    with Playback(write(tmp_path / "bag", contract, raw=contract.model.cameras[0]), contract) as playback:
        names = {source.name: source.kind for source in playback.sources}
        messages = list(playback.messages(playback.begin_ns))
    head, *others = (contract.site.cameras[camera].topic for camera in contract.model.cameras)
    assert names == {"joint_states": "sensor_msgs/msg/JointState", head: "sensor_msgs/msg/Image"} | {
        f"{topic}/compressed": "sensor_msgs/msg/CompressedImage" for topic in others
    }
    assert len(messages) == 10 * len(names)
    instants = [message.instant_ns for message in messages]
    assert instants == sorted(instants) and instants[0] == BEGIN_NS + 1_000_000


def test_it_can_begin_anywhere_and_again(tmp_path: Path, contract: Contract) -> None:
    with Playback(write(tmp_path / "bag", contract), contract) as playback:
        late = list(playback.messages(BEGIN_NS + 5 * STEP_NS))
        again = list(playback.messages(playback.begin_ns))
    assert len(late) * 2 == len(again) and late == again[len(late) :]


@pytest.mark.parametrize("late_s", [-90.0, 1_000.0])
def test_where_recorder_and_stamps_have_two_clocks_it_is_played_on_that_of_the_stamps(
    tmp_path: Path, contract: Contract, late_s: float
) -> None:
    with Playback(write(tmp_path / "bag", contract, round(late_s * NS_PER_S)), contract) as playback:
        first = next(playback.messages(BEGIN_NS + 3 * STEP_NS))
    assert first.instant_ns == BEGIN_NS + 3 * STEP_NS


def test_a_bag_without_a_camera_is_refused_by_its_name(tmp_path: Path, contract: Contract) -> None:
    with BagMaker(tmp_path / "bag", contract) as bag:
        bag.joints(BEGIN_NS, dict.fromkeys(contract.model.state_joints, 0.0))
    refused = pytest.raises(EpisodeError, match=f"camera {contract.model.cameras[0]} is missing")
    with refused, Playback(tmp_path / "bag", contract):
        pass


def test_ros2_bag_play_is_told_the_same_names_clock_and_begin(tmp_path: Path, contract: Contract) -> None:
    with Playback(write(tmp_path / "bag", contract), contract) as playback:
        sources = playback.sources[:2]
    command = play_command(tmp_path / "bag", sources, "/replay/", rate=0.5, loop=True, start_s=2.0)
    camera = f"{contract.site.cameras[contract.model.cameras[0]].topic}/compressed"
    assert command == [
        *("ros2", "bag", "play", str(tmp_path / "bag"), "--rate", "0.5", "--clock", "100"),
        *("--start-offset", "2", "--loop", "--topics", "/joint_states", f"/{camera}"),
        *("--remap", "/joint_states:=/replay/joint_states", f"/{camera}:=/replay/{camera}", "/clock:=/replay/clock"),
    ]
