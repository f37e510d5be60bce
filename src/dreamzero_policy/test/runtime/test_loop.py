"""The loop over a small world: what it observes, what it executes, and what it refuses to execute."""

from dataclasses import replace

import numpy as np
import pytest

from dreamzero_policy.runtime.chunk import Verdict
from dreamzero_policy.runtime.embodiment import Embodiment
from dreamzero_policy.runtime.faults import Fault
from dreamzero_policy.runtime.loop import Loop, Phase
from dreamzero_policy.runtime.observation import NS_PER_S
from dreamzero_policy.runtime.plan import Plan, spline_velocities
from dreamzero_policy.runtime.policy import Failure, Request
from dreamzero_policy.runtime.rest import longest_plan_s

from .small_world import SETTINGS, Robot, Scripted, loop_of, run


def test_while_a_cameras_pictures_cannot_be_used_nothing_is_asked_for_with_older_ones(robot: Robot) -> None:
    policy = Scripted(robot, value=0.2, latency_ns=10_000_000)
    loop = loop_of(robot, policy)
    loop.run("touch the red cube")
    run(loop, robot, 2.0)
    while loop.phase is Phase.THINKING:
        run(loop, robot, 0.01)
    asked, acted = len(policy.requests), len(robot.acts)
    run(loop, robot, 2.0, damaged=("head",))
    assert (len(policy.requests), len(robot.acts)) == (asked, acted)
    assert "cut off" in loop.message
    run(loop, robot, 1.0)
    assert len(policy.requests) > asked and len(robot.acts) > acted


def test_a_window_opens_with_one_frame_and_goes_on_with_whole_blocks(robot: Robot) -> None:
    policy = Scripted(robot, value=0.2)
    loop = loop_of(robot, policy)
    loop.run("touch the red cube")
    run(loop, robot, 4.2)
    assert policy.prompts == [("touch the red cube", 1)]
    assert [len(request.canvas) for request in policy.requests] == [1, 8, 8, 8, 8]
    assert [chunk.index for chunk in robot.chunks] == list(range(len(robot.chunks)))
    assert all(chunk.verdict is Verdict.ACCEPTED for chunk in robot.chunks)


def test_no_splice_waits_for_a_spline_that_could_be_made_before(robot: Robot) -> None:
    spline_velocities.cache_clear()
    loop = loop_of(robot, Scripted(robot, value=0.2))
    made = spline_velocities.cache_info().misses
    loop.run("go")
    run(loop, robot, 3.0)
    assert robot.chunks and all(chunk.verdict is Verdict.ACCEPTED for chunk in robot.chunks)
    assert made == 23  # of 2 to 24 rows
    assert spline_velocities.cache_info().misses == made


def test_the_block_after_a_chunk_shows_exactly_the_steps_that_were_executed(robot: Robot) -> None:
    loop = loop_of(robot, Scripted(robot, value=0.2))
    loop.run("go")
    run(loop, robot, 3.0)
    first, second = robot.chunks[:2]
    step_ns = NS_PER_S / 30
    expected = [first.start_ns + k * step_ns for k in (3, 6, 9, 12, 15, 18, 21, 24)]
    for stamps in second.block.frame_stamps_ns.values():
        np.testing.assert_allclose(stamps, expected, atol=1_000)
    assert second.block.observation_ns == pytest.approx(first.start_ns + 24 * step_ns, abs=1_000)


def test_rows_are_offsets_from_the_state_of_the_observation_instant(robot: Robot) -> None:
    loop = loop_of(robot, Scripted(robot, value=0.5))
    loop.run("go")
    run(loop, robot, 1.0)
    chunk = robot.chunks[0]
    np.testing.assert_allclose(chunk.positions[-1, :14], chunk.block.positions[:14] + 0.5 * 0.2, atol=1e-6)


def test_what_is_sent_begins_in_the_future_and_ends_at_rest(robot: Robot) -> None:
    loop = loop_of(robot, Scripted(robot, value=0.5))
    loop.run("go")
    run(loop, robot, 1.0)
    plan, chunk = robot.acts[0], robot.chunks[0]
    assert plan.knots_ns[0] - chunk.answered_ns == pytest.approx(0.05 * NS_PER_S)
    assert (plan.velocities[-1] == 0).all()
    assert 0.06 <= (chunk.start_ns - chunk.answered_ns) / NS_PER_S <= 0.06 + 1 / 30


def test_a_chunk_outside_the_limits_is_shown_with_its_reason_and_not_executed(robot: Robot) -> None:
    policy = Scripted(robot, value=30.0)
    loop = loop_of(robot, policy)
    loop.run("go")
    run(loop, robot, 1.2)
    assert robot.acts == []
    assert robot.chunks[0].verdict is not Verdict.ACCEPTED
    assert "idx" in robot.chunks[0].reason and "limit" in robot.chunks[0].reason
    assert loop.counters.rejected.total() == len(robot.chunks) == 2
    assert [len(request.canvas) for request in policy.requests] == [1, 8]  # it stood still for a whole block


@pytest.mark.parametrize(("fresh", "seeds"), [(True, [0, 1, 2, 3, 4]), (False, [0, 1, 2, 3, 0])])
def test_after_a_rejection_the_model_starts_from_other_noise(robot: Robot, fresh: bool, seeds: list[int]) -> None:
    policy = Scripted(robot, value=30.0)
    loop = loop_of(robot, policy, fresh_noise=fresh)
    loop.run("go")
    run(loop, robot, 1.8)
    policy.value = 0.2
    run(loop, robot, 2.6)
    assert [request.seed for request in policy.requests] == [7 + 7919 * number for number in seeds]


@pytest.mark.parametrize(("fresh", "seeds"), [(True, [0, 1, 2]), (False, [0, 0, 0])])
def test_every_chunk_of_an_epoch_has_noise_of_its_own_unless_all_shall_have_the_same(
    robot: Robot, fresh: bool, seeds: list[int]
) -> None:
    policy = Scripted(robot, value=0.2)
    loop = loop_of(robot, policy, fresh_noise=fresh)
    for _ in range(2):
        policy.requests.clear()
        loop.run("go")
        run(loop, robot, 2.8)
        assert [request.seed for request in policy.requests][:3] == [7 + 7919 * number for number in seeds]


def test_rows_that_are_not_finite_are_never_executed(robot: Robot) -> None:
    loop = loop_of(robot, Scripted(robot, value=float("nan")))
    loop.run("go")
    run(loop, robot, 0.5)
    assert robot.acts == [] and robot.chunks[0].verdict is Verdict.REJECTED_NOT_FINITE


def test_an_answer_of_an_older_epoch_is_dropped(robot: Robot) -> None:
    policy = Scripted(robot, value=0.5)
    loop = loop_of(robot, policy)
    loop.run("one")
    while not policy.requests:
        run(loop, robot, 0.01)
    loop.run("two")
    run(loop, robot, 0.3)
    assert [chunk.epoch for chunk in robot.chunks] == [2]
    assert [chunk.prompt for chunk in robot.chunks] == ["two"]


def test_a_silent_camera_is_named_and_nothing_is_commanded(robot: Robot) -> None:
    policy = Scripted(robot)
    loop = loop_of(robot, policy)
    loop.run("go")
    run(loop, robot, 1.0, cameras=("head", "hand_right"))
    assert policy.requests == [] and robot.acts == []
    assert loop.waiting_for() == ["camera hand_left: no message yet on hand_left/color/image_raw"]


def test_a_lost_frame_reopens_the_window_in_a_new_epoch(robot: Robot) -> None:
    policy = Scripted(robot, value=0.1)
    loop = loop_of(robot, policy)
    loop.run("go")
    run(loop, robot, 0.5)
    run(loop, robot, 0.3, cameras=("head", "hand_left"))
    run(loop, robot, 1.0)
    assert loop.faults.counts == {Fault.BLOCK_BROKEN: 1}
    assert policy.prompts == [("go", 1), ("go", 2)]
    assert [len(request.canvas) for request in policy.requests[:2]] == [1, 1]


def test_a_dead_policy_is_a_fault_that_says_so(robot: Robot) -> None:
    policy = Scripted(robot)
    loop = loop_of(robot, policy)
    loop.run("go")
    policy.answers.append((robot.ns, Failure("the model's process ended (exit code -9)")))
    run(loop, robot, 0.5)
    assert loop.phase is Phase.FAULT and "exit code -9" in loop.message
    assert loop.failure.fault is Fault.MODEL_FAILED
    assert robot.acts == []


def test_a_plan_that_would_last_longer_than_allowed_is_rejected_with_both_times(robot: Robot) -> None:
    policy = Scripted(robot, value=0.2)
    loop = Loop(robot.embodiment, robot.buffer, policy, robot, replace(SETTINGS, max_plan_s=0.7), session="test")
    loop.run("go")
    run(loop, robot, 0.5)
    assert robot.acts == [] and robot.chunks[0].verdict is Verdict.REJECTED_DURATION
    assert "max_plan_s is 0.70" in robot.chunks[0].reason


def test_every_plan_is_shorter_than_the_longest_one_that_the_limits_allow(robot: Robot) -> None:
    policy = Scripted(robot, value=0.9)
    loop = loop_of(robot, policy)
    loop.run("go")
    run(loop, robot, 3.0)
    longest_s = longest_plan_s(robot.embodiment.contract, SETTINGS.lead_s)
    assert 1.0 < longest_s < 1.5
    assert robot.acts and all(
        plan.end_ns - chunk.answered_ns <= longest_s * NS_PER_S
        for plan, chunk in zip(robot.acts, robot.chunks, strict=True)
    )


def test_the_same_recording_gives_the_same_requests(embodiment: Embodiment) -> None:
    def requests() -> list[Request]:
        robot = Robot(embodiment)
        policy = Scripted(robot, value=0.3)
        loop = loop_of(robot, policy)
        loop.run("go")
        run(loop, robot, 2.5)
        return policy.requests

    for ours, theirs in zip(requests(), requests(), strict=True):
        np.testing.assert_array_equal(ours.canvas, theirs.canvas)
        np.testing.assert_array_equal(ours.state, theirs.state)


def test_a_model_that_does_not_answer_is_a_fault(robot: Robot) -> None:
    policy = Scripted(robot)
    loop = loop_of(robot, policy, inference_timeout_s=0.0)
    loop.run("go")
    run(loop, robot, 0.2)
    assert loop.phase is Phase.FAULT and "has not answered" in loop.message
    assert loop.failure.fault is Fault.MODEL_SILENT
    assert robot.acts == []


def test_a_robot_that_was_moved_by_hand_is_taken_where_it_is(robot: Robot) -> None:
    loop = loop_of(robot, Scripted(robot, value=0.2))
    loop.run("go")
    run(loop, robot, 0.7)
    loop.halt("stopped")
    run(loop, robot, 0.5)
    robot.plan = Plan.rest(robot.plan.positions[-1] + 0.1, robot.ns)
    loop.run("go on")
    run(loop, robot, 0.5)
    arms = slice(0, 14)
    np.testing.assert_allclose(robot.acts[-1].positions[0, arms], robot.chunks[-1].block.positions[arms], atol=0.01)


def test_a_policy_that_asks_for_a_little_more_than_a_stop_allows_is_eased_off_it_and_goes_on(robot: Robot) -> None:
    hanging = loop_of(robot, Scripted(robot, value=0.6, power=1))
    hanging.run("reach up")
    run(hanging, robot, 15.0)
    assert hanging.counters.rejected[Verdict.REJECTED_POSITION] >= 4 and hanging.counters.eased == 0
    hung = robot.plan.positions[-1]

    loop = loop_of(robot, Scripted(robot, value=0.6, power=1), limit_easing_share=0.5)
    loop.run("reach up")
    run(loop, robot, 5.0)
    assert loop.counters.eased >= 3 and not loop.counters.rejected
    assert "eased off the stop: idx22_arm_l_joint2" in robot.chunks[-1].way
    joints = loop.embodiment.contract.model.commanded_joints
    assert robot.plan.positions[-1, joints.index("idx22_arm_l_joint2")] < 1.48
    free = joints.index("idx21_arm_l_joint1")
    assert robot.plan.positions[-1, free] > hung[free] + 0.1
