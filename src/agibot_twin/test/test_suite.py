"""The twin as a suite: seeded scenes, simulated time, plans followed, tasks judged."""

from pathlib import Path

import numpy as np
import pytest

from agibot_twin.arms import STEP_S
from agibot_twin.episodes import sample_episode
from agibot_twin.expert import Expert, command_limits, velocities
from agibot_twin.suite import TwinSuite
from dreamzero_policy.evaluation.stage import Job, Setup, Stage
from dreamzero_policy.runtime.contract import load_contract

CONFIG = Path(__file__).resolve().parents[3] / "config"
CONTRACT = load_contract(CONFIG / "agibot_g1.yaml")
S = 1_000_000_000


@pytest.fixture(scope="module")
def suite():
    suite = TwinSuite()
    yield suite
    suite.close()


def test_an_episode_begins_at_time_zero_with_a_task(suite):
    info = suite.reset("unseen", 4)
    assert suite.now_ns() == 0
    assert info.instruction == sample_episode("unseen", 4).instruction
    assert info.novelty != "seen" and info.duration_s > 5
    assert suite.outcome().progress == 0.0


def test_the_experts_plan_given_as_absolute_points_does_the_task(suite):
    seed = next(seed for seed in range(50) if sample_episode("seen", seed).task.family == "touch")
    suite.reset("seen", seed)
    expert = Expert(command_limits(CONTRACT))
    task = sample_episode("seen", seed).task
    commands = expert.demonstrate(task, suite.world.object_poses(), expert.arms.home, np.random.default_rng(0))
    stamps_ns = [round((step + 1) * STEP_S * S) for step in range(len(commands))]
    suite.follow(suite.joint_names, stamps_ns, commands, velocities(commands))
    suite.advance_to(stamps_ns[-1])
    assert suite.now_ns() == pytest.approx(stamps_ns[-1], abs=2_000_000)
    assert suite.outcome().success


@pytest.fixture(scope="module")
def stage():
    stage = Stage(Setup("agibot_twin", CONFIG / "agibot_g1.yaml", CONFIG / "policy.yaml", weights={}))
    yield stage
    stage.close()


@pytest.mark.parametrize("family", ["touch", "place"])
def test_the_runtime_leaves_the_expert_what_it_needs(stage, family):
    seed = next(seed for seed in range(50) if sample_episode("seen", seed).task.family == family)
    played = stage.play(Job("demonstration", "seen", seed))
    assert (played.end, dict(played.rejected)) == ("success", {})
    assert played.chunks >= 2


def test_a_demonstration_is_that_of_its_seed_and_begins_where_the_robot_stands(suite):
    shown = []
    for seed in (3, 4, 3):
        suite.reset("seen", seed)
        standing = suite.observe(images=False).joints.positions
        joints, commands = suite.demonstration(CONTRACT)
        assert joints == suite.joint_names
        np.testing.assert_allclose(commands[0], standing, atol=0.01)
        shown.append(commands)
    np.testing.assert_array_equal(shown[0], shown[2])
    assert shown[0].shape != shown[1].shape or np.abs(shown[0] - shown[1]).max() > 0.05


def test_a_contract_of_another_rate_is_refused_with_both(suite):
    slower = CONTRACT.model_copy(update={"model": CONTRACT.model.model_copy(update={"action_hz": 15.0})})
    suite.reset("seen", 0)
    with pytest.raises(ValueError, match="15 actions a second, the expert 30"):
        suite.demonstration(slower)


def test_an_unknown_split_is_named(suite):
    with pytest.raises(ValueError, match="'training'"):
        suite.reset("training", 0)
