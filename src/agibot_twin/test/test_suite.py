"""The twin as a suite: seeded scenes, simulated time, plans followed, tasks judged."""

from pathlib import Path

import numpy as np
import pytest

from agibot_twin.collect import command_limits
from agibot_twin.episodes import sample_episode
from agibot_twin.expert import STEP_S, Expert, velocities
from agibot_twin.suite import TwinSuite
from dreamzero_policy.runtime.contract import load_contract

CONTRACT = load_contract(Path(__file__).resolve().parents[3] / "config" / "agibot_g1.yaml")
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


def test_an_unknown_split_is_named(suite):
    with pytest.raises(ValueError, match="'training'"):
        suite.reset("training", 0)
