"""What happens to the twin without a warning is there at once, changes nothing else, and is over with the episode."""

import numpy as np
import pytest

from agibot_twin.disturbances import DISTURBANCES
from agibot_twin.suite import TwinSuite

S = 1_000_000_000


@pytest.fixture(scope="module")
def suite():
    made = TwinSuite()
    yield made
    made.close()


def test_an_object_is_somewhere_else_and_the_others_are_where_they_were(suite: TwinSuite) -> None:
    suite.reset("seen", 3)
    thing, before = suite.episode.task.thing, suite.world.object_poses()
    suite.disturb("object_moved")
    suite.advance_to(S // 2)
    moved = {name: np.linalg.norm(pose[:2] - before[name][:2]) for name, pose in suite.world.object_poses().items()}
    assert 0.08 < moved.pop(thing) < 0.2
    assert all(distance < 0.03 for distance in moved.values())


def test_a_hand_is_pushed_and_comes_back(suite: TwinSuite) -> None:
    suite.reset("seen", 3)
    hand = suite.episode.task.hands[0]
    home = suite.world.situation().hands[hand].copy()
    suite.disturb("hand_slipped")
    suite.advance_to(S * 4 // 10)
    away = np.linalg.norm(suite.world.situation().hands[hand] - home)
    suite.advance_to(3 * S)
    back = np.linalg.norm(suite.world.situation().hands[hand] - home)
    assert away > 0.02 > 2 * back


def test_a_camera_sees_another_picture_until_the_next_episode(suite: TwinSuite) -> None:
    suite.reset("seen", 3)
    before = suite.observe(images=True).images
    suite.disturb("camera_shifted")
    shifted = suite.observe(images=True).images
    assert np.abs(shifted["head"].astype(int) - before["head"]).mean() > 3
    assert all(np.array_equal(shifted[name], before[name]) for name in before if name != "head")
    suite.reset("seen", 3)
    assert np.array_equal(suite.observe(images=True).images["head"], before["head"])


def test_behind_a_disturbed_episode_the_next_is_as_if_it_had_not_been(suite: TwinSuite) -> None:
    states = []
    for kind in (None, *DISTURBANCES):
        if kind is not None:
            suite.reset("seen", 4)
            suite.disturb(kind)
            suite.advance_to(S // 10)
        suite.reset("seen", 5)
        suite.advance_to(S)
        states.append(suite.world.scene_state().qpos)
    assert all(np.array_equal(state, states[0]) for state in states)


def test_an_unknown_kind_is_refused(suite: TwinSuite) -> None:
    suite.reset("seen", 3)
    with pytest.raises(ValueError, match="disturbance is 'earthquake', expected one of"):
        suite.disturb("earthquake")
