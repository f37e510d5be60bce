"""replay_node over DDS: it plays a bag byte for byte on the bag's clock, and policy_node bears its loops and seeks."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from rclpy.serialization import serialize_message
from sensor_msgs.msg import JointState

from dreamzero_policy.ros.messages import to_ns, to_stamp

from .replayed import BEGIN_NS, PATIENCE_S, PLAYER, listening, policy_beside, running, write_bag
from .robot import CAMERAS, JOINTS

pytestmark = pytest.mark.stack
SECONDS = 3.0


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bag(tmp_path_factory.mktemp("bags") / "noise", SECONDS)


@pytest.fixture
def ear(ros) -> Iterator[tuple]:
    with listening() as heard:
        yield heard


def test_a_bag_is_played_byte_for_byte_on_its_own_clock_once_somebody_hears_it(ear, bag: Path, tmp_path: Path) -> None:
    listener, wait = ear
    with running(PLAYER, tmp_path / "log", bag=bag, player="own", rate_share=0.5) as player:
        wait(lambda: "waiting: nobody hears" in (tmp_path / "log").read_text(), "word that it waits")
        assert not listener.clock_ns
        listener.listen()
        wait(lambda: player.poll() is not None, "end of the bag")
        wait(lambda: len(listener.joints) == SECONDS * 100, "last joint state")
    assert player.returncode == 0, (tmp_path / "log").read_text()
    told = JointState(name=JOINTS, position=[0.1] * len(JOINTS))
    told.header.stamp = to_stamp(BEGIN_NS)
    assert listener.joints[0] == serialize_message(told)
    assert len(listener.frames) == SECONDS * 30 * len(CAMERAS)
    assert listener.clock_ns == sorted(listener.clock_ns)
    assert listener.clock_ns[0] >= BEGIN_NS and listener.clock_ns[-1] <= BEGIN_NS + SECONDS * 1e9
    assert len(listener.clock_ns) > 100


def test_a_seek_and_the_end_of_a_loop_set_the_clock(ear, bag: Path, tmp_path: Path) -> None:
    listener, wait = ear
    listener.listen()
    with running(PLAYER, tmp_path / "log", bag=bag, player="own", loop=True, start_s=1.0):
        wait(lambda: len(listener.clock_ns) > 10, "clock")
        assert listener.clock_ns[0] >= BEGIN_NS + 1e9
        listener.seek(0.5)
        wait(lambda: backwards(listener.clock_ns) == 1, "seek")
        wait(lambda: backwards(listener.clock_ns) == 2, "second round")
        listener.seek(99.0)
        wait(lambda: "no seek to 99 s: the bag lasts 2.990 s" in (tmp_path / "log").read_text(), "refusal")
    jumps = [(a, b) for a, b in zip(listener.clock_ns, listener.clock_ns[1:], strict=False) if b < a]
    assert [round((b - BEGIN_NS) / 1e9, 1) for _, b in jumps[:2]] == [0.5, 0.0]


def backwards(clock_ns: list[int]) -> int:
    return int((np.diff(clock_ns) < 0).sum())


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({}, "parameter bag is empty"),
        ({"bag": "/nowhere"}, "there is no bag /nowhere"),
        ({"start_s": 7.0}, "parameter start_s is 7, the bag lasts"),
        ({"player": "vlc"}, "parameter player is 'vlc', expected one of auto, ros2, own"),
    ],
)
def test_what_cannot_be_played_is_refused_in_one_line(
    ros, bag: Path, tmp_path: Path, parameters: dict, reason: str
) -> None:
    given = {"bag": bag, "player": "own", **parameters} if {"start_s", "player"} & set(parameters) else parameters
    with running(PLAYER, tmp_path / "log", **given) as player:
        assert player.wait(PATIENCE_S) == 1
    (line,) = [line for line in (tmp_path / "log").read_text().splitlines() if line.startswith("replay_node: ")]
    assert reason in line


def test_the_policy_bears_a_loop_and_nobody_hears_what_it_commands(ear, bag: Path, tmp_path: Path) -> None:
    listener, wait = ear
    with (
        running(PLAYER, tmp_path / "player", bag=bag, player="own", loop=True, rate_share=0.5),
        policy_beside(tmp_path / "policy"),
    ):
        wait(lambda: len(listener.chunks) >= 2, "chunks")
        before = listener.chunks[-1].epoch
        wait(lambda: backwards(listener.clock_ns) >= 1, "second round")
        wait(lambda: any("clock_jumped" in status.fault_names for status in listener.statuses), "word of the jump")
        heard = len(listener.chunks)
        wait(lambda: listener.chunks[-1].epoch > before and len(listener.chunks) > heard + 1, "chunks of a new epoch")
    assert all(BEGIN_NS <= to_ns(chunk.header.stamp) <= BEGIN_NS + SECONDS * 1e9 for chunk in listener.chunks)
    assert not listener.trajectories
