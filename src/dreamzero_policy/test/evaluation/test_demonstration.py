"""Demonstrations through the loop: what the expert commands is what the robot does, chunk by chunk."""

from dataclasses import replace

import numpy as np
import pytest

from dreamzero_policy.data.windows import unclamped
from dreamzero_policy.evaluation.closed_loop import Episode, NodeParameters, SuiteWorld
from dreamzero_policy.evaluation.demonstration import DemonstrationPolicy
from dreamzero_policy.evaluation.stage import Job, Setup, Stage
from dreamzero_policy.evaluation.suite import SuiteError, demonstrates, find_suite
from dreamzero_policy.runtime.chunk import Chunk, Verdict
from dreamzero_policy.runtime.contract import Contract
from dreamzero_policy.runtime.policy import Request

from .conftest import WORLD

DEMONSTRATING = WORLD.replace("FakeSuite", "DemonstratingSuite")
LATENCY_NS = 150_000_000
STEP_NS = 33_333_333


class Remembering(SuiteWorld):
    """Keeps every chunk."""

    chunks: list[Chunk]

    def show(self, chunk: Chunk) -> None:
        super().show(chunk)
        self.chunks.append(chunk)


@pytest.fixture
def stage(setup: Setup) -> Stage:
    return Stage(replace(setup, world=DEMONSTRATING, weights={}))


def test_a_slow_motion_comes_out_of_the_loop_as_it_was_commanded(
    stage: Stage, contract: Contract, parameters: NodeParameters
) -> None:
    suite, embodiment = stage.suite, unclamped(contract)
    task = suite.reset("seen", 0)
    world = Remembering(suite, contract)
    world.chunks = []
    joints, rows = suite.demonstration(contract)
    policy = DemonstrationPolicy(stage._demonstrated(embodiment), embodiment, world, LATENCY_NS)
    played = Episode(world, embodiment, policy, parameters, steps=0).play(task)
    assert (played.end, dict(played.rejected)) == ("success", {})
    assert played.chunks == len(world.chunks) == len(suite.followed) == 4
    in_order = rows[:, [joints.index(joint) for joint in contract.model.commanded_joints]]
    for k, (chunk, plan) in enumerate(zip(world.chunks, suite.followed, strict=True)):
        steps = np.minimum(24 * k + np.arange(24), len(rows) - 1)
        np.testing.assert_allclose(chunk.positions, in_order[steps], atol=3e-4)  # what smoothing changes
        executed, _ = plan.sample(chunk.start_ns + STEP_NS * np.arange(24))
        # But for the way into the chunk and the stop at its end.
        own = slice(round(parameters.loop.blend_s[0] * contract.model.action_hz), 24 - parameters.loop.stopping_rows)
        np.testing.assert_allclose(executed[own], rows[steps][own], atol=3e-4)


def test_a_rejected_chunk_is_asked_for_again_and_the_last_row_stays(contract: Contract) -> None:
    embodiment = unclamped(contract)
    actions = np.arange(30)[:, None] / 100 + np.zeros(contract.model.action_width)
    world = SuiteWorld(find_suite(WORLD)(), contract)
    policy = DemonstrationPolicy(actions, embodiment, world, LATENCY_NS)
    anchor = np.full(len(contract.model.state_joints), 0.2)

    def answered(verdict: Verdict) -> np.ndarray:
        """Rows of the left arm's first joint, of a chunk that then ends so."""
        request = Request(1, np.zeros(0, np.uint8), embodiment.normalised_state(anchor), 0, 0, 0)
        policy.submit(request)
        assert policy.poll() is None
        world.ns = policy.due_ns
        reply = policy.poll()
        assert policy.due_ns is None
        world.decided = Chunk("", 1, 0, "", None, reply, None, 0.0, 0, 0, "", 0, False, anchor, 0, None, 0, verdict)
        return embodiment.actions(reply.actions, anchor)[:, 0]

    first = np.arange(24) / 100
    np.testing.assert_allclose(answered(Verdict.REJECTED_STEP), first, atol=2e-6)
    np.testing.assert_allclose(answered(Verdict.ACCEPTED), first, atol=2e-6)
    for _ in range(2):
        np.testing.assert_allclose(answered(Verdict.REJECTED_VELOCITY)[[0, 5, 23]], [0.24, 0.29, 0.29], atol=2e-6)


def test_a_stage_plays_it_for_a_suite_that_can(stage: Stage) -> None:
    for split, seed in (("seen", 0), ("unseen", 3)):
        result = stage.result_of((Job("demonstration", split, seed), ""))
        assert (result.success, result.end, result.rejected, result.chunks) == (True, "success", {}, 4)


def test_where_no_way_is_known_the_robot_stands_still(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage.suite, "demonstration", lambda contract: None)
    played = stage.play(Job("demonstration", "seen", 0))
    assert (played.end, played.chunks, played.outcome.progress) == ("time", 0, 0.0)
    assert stage.suite.followed == []


def test_a_suite_that_cannot_demonstrate_is_told_why(
    setup: Setup, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert demonstrates(find_suite(DEMONSTRATING))
    assert not demonstrates(find_suite(WORLD))
    with pytest.raises(SuiteError, match="has no method `demonstration`"):
        Stage(setup).play(Job("demonstration", "seen", 0))

    def other_rate(contract: Contract) -> None:
        raise ValueError("30 and 15 actions a second")

    monkeypatch.setattr(stage.suite, "demonstration", other_rate)
    with pytest.raises(SuiteError, match="cannot demonstrate for this contract: 30 and 15"):
        stage.play(Job("demonstration", "seen", 0))
    joints = stage.suite.joint_names
    monkeypatch.setattr(stage.suite, "demonstration", lambda contract: (joints[1:], np.zeros((3, len(joints) - 1))))
    with pytest.raises(SuiteError, match=f"demonstrates without joint {joints[0]}"):
        stage.play(Job("demonstration", "seen", 0))
