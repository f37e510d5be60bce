"""What the expert promises: it does what it is told in every family, and its commands keep the contract's limits."""

from pathlib import Path

import numpy as np
import pytest

from agibot_twin.arms import STEP_S
from agibot_twin.collect import collect, episode_name
from agibot_twin.collector import Collector
from agibot_twin.commanding import follow
from agibot_twin.episodes import sample_episode
from agibot_twin.expert import (
    GRASP_Z_M,
    LIMIT_SHARE,
    SWIFTEST_M_S,
    CommandLimits,
    Expert,
    ExpertError,
    Leg,
    command_limits,
    excesses,
    gripper_of,
    minimum_jerk,
    path_of,
    straight,
    unhurried,
)
from agibot_twin.robot_model import DRIVEN_JOINTS
from agibot_twin.tasks import HANDS, SEEN_FAMILIES, Judge, side
from agibot_twin.world import TwinWorld
from dreamzero_policy.runtime.contract import load_contract

CONTRACT_PATH = Path(__file__).resolve().parents[3] / "config" / "agibot_g1.yaml"
CONTRACT = load_contract(CONTRACT_PATH)


@pytest.fixture(scope="module")
def expert() -> Expert:
    return Expert(command_limits(CONTRACT))


@pytest.fixture(scope="module")
def world() -> TwinWorld:
    return TwinWorld()


def seeds_of(family: str, count: int) -> list[int]:
    return [seed for seed in range(200) if sample_episode("training", seed).task.family == family][:count]


@pytest.mark.parametrize("family", SEEN_FAMILIES)
def test_the_expert_does_every_task_inside_the_limits(family, expert, world):
    for seed in seeds_of(family, 2):
        episode = sample_episode("training", seed)
        world.lay_out(episode.layout)
        judge = Judge(episode.task, episode.layout, world.situation())
        rng = np.random.default_rng(seed)
        commands = expert.demonstrate(episode.task, world.object_poses(), expert.arms.home, rng)
        assert excesses(commands, expert.limits).max() <= LIMIT_SHARE < 1.0
        lower, upper = np.array(
            [[CONTRACT.site.limits[j].lower, CONTRACT.site.limits[j].upper] for j in DRIVEN_JOINTS]
        ).T
        assert (commands >= lower - 1e-9).all() and (commands <= upper + 1e-9).all()
        sides = [f"_{hand[0]}_" for hand in episode.task.hands]
        others = [i for i, joint in enumerate(DRIVEN_JOINTS) if not any(side in joint for side in sides)]
        assert np.ptp(commands[:, others], axis=0).max() < 1e-6
        follow(world, commands)
        for _ in commands:
            world.step(STEP_S)
            judge.watch(world.situation())
        assert judge.success, f"{episode.instruction} (seed {seed}): progress {judge.progress:.2f}"


@pytest.mark.parametrize("hand", HANDS)
@pytest.mark.parametrize(("ahead_m", "aside_m"), [(0.50, 0.0), (0.55, 0.05), (0.60, 0.10)])
def test_a_hand_goes_down_where_it_is_told_also_near_the_middle_of_the_table(expert, hand, ahead_m, aside_m):
    arms, goal = expert.arms, np.array([ahead_m, side(hand) * aside_m, GRASP_Z_M])
    way = straight(arms.hand_position(hand, arms.home), goal, 45)
    joints = arms.follow(arms.home, {hand: np.concatenate([way, np.tile(goal, (20, 1))])})[-1]
    assert np.linalg.norm(arms.hand_position(hand, joints) - goal) < 0.006


def test_what_no_time_is_long_enough_for_is_told_with_joint_and_numbers(expert):
    slow = Expert(CommandLimits(expert.limits.velocity / 100, expert.limits.acceleration / 100))
    here = slow.arms.hand_position("left", slow.arms.home)
    with pytest.raises(ExpertError, match=r"arm_l_joint\d needs \d+\.\d\d times its limit, at most 0.6 are allowed"):
        slow.commands(slow.arms.home, {"left": [Leg(here + [0.0, 0.0, 0.1], 0.5)]})


def test_minimum_jerk_starts_after_rest_and_ends_at_rest():
    path = np.concatenate([[0.0], minimum_jerk(30), [1.0]])
    assert path[-2] == 1.0
    assert np.abs(np.diff(path))[[0, -1]].max() < 1e-3


def test_legs_follow_each_other_and_the_gripper_moves_with_its_leg():
    legs = [Leg(np.array([1.0, 0, 1]), 1.0, "down"), Leg(np.array([1.0, 0, 0]), 0.5, gripper_rad=0.0)]
    path, gripper = path_of(np.zeros(3), legs), gripper_of(0.773, legs)
    assert len(path) == len(gripper) == 45
    np.testing.assert_allclose(path[[29, 44]], [[1, 0, 1], [1, 0, 0]])
    assert path[14, 2] < path[14, 0]  # sideways first
    np.testing.assert_allclose(gripper[[0, 29, 44]], [0.773, 0.773, 0.0])


def test_a_long_way_takes_the_time_it_needs_and_a_short_one_what_it_is_given():
    near, far = unhurried(np.zeros(3), [Leg(np.array([0.1, 0, 0]), 0.9), Leg(np.array([1.1, 0, 0]), 0.9)])
    assert near.duration_s == 0.9
    fastest_m_s = np.abs(np.diff(minimum_jerk(900))).max() * 900 / far.duration_s
    np.testing.assert_allclose(fastest_m_s, SWIFTEST_M_S, rtol=1e-3)


def test_half_the_demonstrations_start_with_the_hand_at_work_anywhere_over_the_table(expert):
    task = sample_episode("training", seeds_of("touch", 1)[0]).task
    hand, other = task.hand, "left" if task.hand == "right" else "right"
    starts = [expert.start_pose(task, np.random.default_rng(seed)) for seed in range(12)]
    away = {
        which: [np.linalg.norm(expert.arms.hand_position(which, q) - at_home(expert, which)) for q in starts]
        for which in (hand, other)
    }
    assert 2 <= sum(distance > 0.09 for distance in away[hand]) <= 10
    assert max(away[other]) < 0.09  # the spread around home


def at_home(expert: Expert, hand: str) -> np.ndarray:
    return expert.arms.hand_position(hand, expert.arms.home)


class Pages:
    """A sink that keeps episodes in memory."""

    def __init__(self, picture_every: int, there: tuple[str, ...] = ()) -> None:
        self.picture_every, self.there = picture_every, there
        self.steps: list[tuple] = []
        self.instructions: tuple[str, ...] = ()

    def __contains__(self, name: str) -> bool:
        return name in self.there

    def add(self, state, action, images) -> None:
        self.steps.append((state, action, images))

    def finish(self, instructions) -> None:
        self.instructions = tuple(instructions)


def test_a_demonstration_goes_step_by_step_into_the_draft_and_is_the_same_again_for_its_seed():
    collector = Collector(CONTRACT)
    seed = seeds_of("touch", 1)[0]
    first, again = Pages(3), Pages(3)
    assert collector.demonstrate(seed, first, 3) and collector.demonstrate(seed, again, 3)
    collector.world.close()
    assert first.instructions[0] == sample_episode("training", seed).instruction
    assert len(first.instructions) > 10
    states, actions, images = zip(*first.steps, strict=True)
    assert [bool(pictures) for pictures in images[:7]] == [True, False, False, True, False, False, True]
    # The twin follows: measured and commanded positions stay together, and the first picture is not black.
    assert np.abs(np.array(states) - np.array(actions)[:, :20]).max() < 0.05
    assert images[0]["head"].mean() > 50
    np.testing.assert_array_equal(states, [state for state, _, _ in again.steps])
    np.testing.assert_array_equal(images[3]["head"], again.steps[3][2]["head"])


def test_an_episode_that_a_sink_has_already_is_not_made_again():
    seed = seeds_of("touch", 1)[0]
    (made,) = collect(CONTRACT_PATH, Pages(3, (episode_name(seed),)), [seed], 1)
    assert (made.seed, made.how) == (seed, "there")
