"""What the expert promises: it touches what it is told to, and its commands keep the contract's limits."""

from pathlib import Path

import numpy as np
import pytest

from agibot_twin.collect import Collector, command_limits, follow
from agibot_twin.expert import STEP_S, Expert, excesses, minimum_jerk
from agibot_twin.robot_model import DRIVEN_JOINTS
from agibot_twin.tasks import TOUCH_DISTANCE_M, sample_touch
from agibot_twin.world import TwinWorld
from dreamzero_policy.data.episodes import load_episode
from dreamzero_policy.runtime.contract import load_contract

CONTRACT = load_contract(Path(__file__).resolve().parents[3] / "config" / "agibot_g1.yaml")


@pytest.fixture(scope="module")
def expert() -> Expert:
    return Expert(command_limits(CONTRACT))


@pytest.fixture(scope="module")
def world() -> TwinWorld:
    return TwinWorld()


@pytest.mark.parametrize("seed", [1, 3, 11])
def test_the_expert_touches_the_object_inside_the_limits(seed, expert, world):
    world.reset(seed)
    poses = world.object_poses()
    task = sample_touch(seed, poses)
    rng = np.random.default_rng(seed)
    commands = expert.demonstrate(task, poses[task.thing.name][:3], expert.arms.home, rng)
    assert excesses(commands, expert.limits).max() <= 1.0
    lower, upper = np.array([[CONTRACT.site.limits[j].lower, CONTRACT.site.limits[j].upper] for j in DRIVEN_JOINTS]).T
    assert (commands >= lower - 1e-9).all() and (commands <= upper + 1e-9).all()
    side = "_arm_l_" if task.hand == "left" else "_arm_r_"
    others = [i for i, joint in enumerate(DRIVEN_JOINTS) if side not in joint]
    assert np.ptp(commands[:, others], axis=0).max() < 1e-6
    follow(world, commands)
    nearest_m = np.inf
    for _ in commands:
        world.step(STEP_S)
        hand = expert.arms.hand_position(task.hand, world.observe().joints.positions)
        nearest_m = min(nearest_m, task.distance_m(hand, world.object_poses()))
    assert task.success(nearest_m)


def test_the_same_seed_is_the_same_task(world):
    world.reset(5)
    poses = world.object_poses()
    assert sample_touch(5, poses) == sample_touch(5, poses)


def test_progress_goes_from_zero_at_the_start_to_one_at_a_touch(world):
    world.reset(5)
    task = sample_touch(5, world.object_poses())
    assert task.progress(0.4, 0.4) == 0.0
    assert task.progress(TOUCH_DISTANCE_M, 0.4) == 1.0
    assert task.progress(0.225, 0.4) == pytest.approx(0.5)


def test_minimum_jerk_starts_after_rest_and_ends_at_rest():
    path = np.concatenate([[0.0], minimum_jerk(30), [1.0]])
    assert path[-2] == 1.0
    assert np.abs(np.diff(path))[[0, -1]].max() < 1e-3


def test_a_collected_demonstration_is_an_episode_of_the_policy_and_the_same_again_for_its_seed(tmp_path):
    collector = Collector(CONTRACT)
    first, again = collector.demonstration(3), collector.demonstration(3)
    first.save(tmp_path / "demonstration.npz", CONTRACT)
    episode = load_episode(tmp_path / "demonstration.npz", CONTRACT)
    assert episode.instruction.startswith("touch the ")
    assert episode.view_steps[:4].tolist() == [0, 3, 6, 9]
    # The twin follows: measured and commanded positions stay together, and the first picture is not black.
    assert np.abs(episode.state - episode.action[:, :20]).max() < 0.05
    assert episode.views[0].mean() > 50
    np.testing.assert_array_equal(first.state, again.state)
    np.testing.assert_array_equal(first.views, again.views)
    collector.world.close()
