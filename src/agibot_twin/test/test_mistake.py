"""Mistakes: the hand goes where the thing is not, comes to rest, and the expert's demonstration begins there."""

from pathlib import Path

import numpy as np
import pytest

from agibot_twin.arms import STEP_S
from agibot_twin.episodes import sample_episode
from agibot_twin.layout import ZONE_X_M, ZONE_Y_M
from agibot_twin.mistake import BESIDE_M, STOPPING_S, MistakePrelude, given_up_at, misplaced
from agibot_twin.suite import TwinSuite
from agibot_twin.tasks import LIFT

CONTRACT_PATH = Path(__file__).resolve().parents[3] / "config" / "agibot_g1.yaml"


def test_only_what_the_task_is_about_is_misplaced_and_stays_on_the_table() -> None:
    rng, distances, at_others = np.random.default_rng(0), [], 0
    for seed in range(200):
        episode = sample_episode("training", seed)
        task, poses = episode.task, dict(episode.layout.poses)
        wrong = misplaced(task, episode.layout, poses, rng)
        assert all(np.array_equal(wrong[name], poses[name]) for name in poses if name != task.thing)
        assert np.array_equal(wrong[task.thing][2:], poses[task.thing][2:])
        x, y = wrong[task.thing][:2]
        assert ZONE_X_M[0] <= x <= ZONE_X_M[1] and ZONE_Y_M[0] <= y <= ZONE_Y_M[1]
        others = [name for name in episode.layout.objects if name != task.thing]
        elsewhere = any(np.array_equal(wrong[task.thing][:2], poses[name][:2]) for name in others)
        at_others += elsewhere
        if task.family != LIFT and not elsewhere:
            distances.append(np.linalg.norm(wrong[task.thing][:2] - poses[task.thing][:2]))
    assert max(distances) <= BESIDE_M[1] + 1e-9 and np.mean(distances) > BESIDE_M[0]
    assert 40 < at_others < 100


def test_a_motion_that_is_given_up_goes_on_as_it_was_and_then_slows_to_rest() -> None:
    commands = 0.01 * np.arange(200.0)[:, None] * [1.0, -2.0]
    given_up = given_up_at(commands, 2.0)
    first = round(2.0 / STEP_S)
    np.testing.assert_array_equal(given_up[: first + 1], commands[: first + 1])
    steps = np.diff(given_up[:, 0])
    assert len(given_up) == first + 1 + round(STOPPING_S / STEP_S)
    assert (
        (np.diff(steps) <= 1e-12).all() and steps[0] == pytest.approx(0.01) and steps[-1] == pytest.approx(0, abs=1e-3)
    )
    np.testing.assert_allclose(given_up_at(commands, 60.0)[-1], commands[-1])


def test_the_robot_stands_still_at_the_wrong_place_and_the_same_again() -> None:
    suite, prelude, ends = TwinSuite(), MistakePrelude(CONTRACT_PATH), []
    for seed in (3, 3):
        task = suite.lay_out(sample_episode("training", seed))
        before = suite.world.observe().joints.positions
        prelude(suite, task, 2.5)
        suite.advance_to(suite.now_ns() + 500_000_000)
        ends.append(suite.world.observe().joints)
        assert np.abs(ends[-1].positions - before).max() > 0.2 and np.abs(ends[-1].velocities).max() < 0.02
    np.testing.assert_array_equal(ends[0].positions, ends[1].positions)
    suite.close()
