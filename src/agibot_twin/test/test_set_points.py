"""As hardware the twin goes where it is told, ignores NaN, and stands where the stream of commands ends."""

import math

import numpy as np
import pytest

from agibot_twin.robot_model import DRIVEN_JOINTS
from agibot_twin.set_points import PAUSE_NS, CommandRefused, SetPoints
from agibot_twin.world import TwinWorld

PERIOD_NS = 10_000_000
JOINTS = ("a", "b")


@pytest.fixture
def points() -> SetPoints:
    return SetPoints(JOINTS, np.array([0.1, 0.2]))


def test_nan_leaves_a_joint_where_it_was_told_to_be(points: SetPoints) -> None:
    points.receive(("b", "a"), (math.nan, 0.3), 5)
    assert points.update(5).positions.tolist() == [0.3, 0.2]
    points.receive(JOINTS, (math.nan, math.inf), 6)
    assert points.update(6).positions.tolist() == [0.3, 0.2]


def test_a_stream_has_the_speed_of_its_steps_and_none_once_it_pauses(points: SetPoints) -> None:
    points.receive(("a",), (0.1,), PERIOD_NS)
    points.receive(("a",), (0.11,), 2 * PERIOD_NS)
    assert points.update(2 * PERIOD_NS).velocities == pytest.approx([1.0, 0.0])
    assert not points.update(2 * PERIOD_NS + PAUSE_NS).velocities.any()
    points.receive(("a",), (0.2,), 9 * PERIOD_NS)  # the first after a pause
    assert not points.update(9 * PERIOD_NS).velocities.any()


@pytest.mark.parametrize(
    ("names", "positions", "reason"),
    [(("a", "c"), (0.0, 0.0), r"unknown joints \['c'\]"), (("a",), (0.0, 0.0), "2 positions for 1 joints")],
)
def test_a_command_for_another_robot_is_refused_whole(
    points: SetPoints, names: tuple[str, ...], positions: tuple[float, ...], reason: str
) -> None:
    with pytest.raises(CommandRefused, match=reason):
        points.receive(names, positions, 1)
    assert points.update(1).positions.tolist() == [0.1, 0.2]


def test_the_twin_as_hardware_follows_a_stream_closely_and_stands_where_it_ends() -> None:
    world = TwinWorld(hardware=True)
    column = DRIVEN_JOINTS.index("idx21_arm_l_joint1")
    home = world.commanded()
    assert world.controllers == {}
    lag = 0.0
    for cycle in range(150):  # 1.5 s there, at up to 0.63 rad/s
        told = home.copy()
        told[column] += 0.15 * (1 - math.cos(math.pi * cycle / 150))
        world.command(DRIVEN_JOINTS, told)
        world.step(PERIOD_NS * 1e-9)
        lag = max(lag, abs(world.simulation.joints().positions[column] - told[column]))
    assert lag < 0.01
    world.step(1.0)
    assert world.simulation.joints().positions == pytest.approx(world.commanded(), abs=3e-3)
    assert world.commanded()[column] == pytest.approx(home[column] + 0.3, abs=1e-3)
