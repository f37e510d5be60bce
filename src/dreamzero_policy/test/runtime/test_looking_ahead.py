"""Chunks asked for before those in hand are over: speed is kept, states are foreseen, steps fit the time."""

import numpy as np
import pytest

from dreamzero_policy.runtime.chunk import Verdict
from dreamzero_policy.runtime.embodiment import Embodiment
from dreamzero_policy.runtime.observation import NS_PER_S
from dreamzero_policy.runtime.policy import Purpose
from dreamzero_policy.runtime.regime import RegimeSettings
from dreamzero_policy.runtime.rest import longest_plan_s

from .small_world import LOOKING_AHEAD_S, SETTINGS, Robot, Scripted, frame_numbers, loop_of, run, speeds


def test_looking_ahead_the_arms_keep_their_speed_across_chunks(robot: Robot) -> None:
    policy = Scripted(robot, value=0.5, power=1, latency_ns=600_000_000)
    loop = loop_of(robot, policy, regime=RegimeSettings("overlap", "look_ahead"), max_plan_s=LOOKING_AHEAD_S)
    loop.run("go")
    run(loop, robot, 5.0)
    assert all(chunk.verdict is Verdict.ACCEPTED for chunk in robot.chunks)
    even = 0.5 * 0.2 / (23 / 30)  # rad/s: 23 steps lead to the last row
    np.testing.assert_allclose(speeds(robot, 1.6), even, rtol=0.15)
    purposes = [request.purpose for request in policy.requests]
    assert purposes[:4] == [Purpose.CHUNK, *[Purpose.LOOK_AHEAD] * 3]
    assert [request.canvas is None for request in policy.requests[:4]] == [False, True, False, False]


def test_in_stop_and_go_the_robot_may_stop_where_the_last_row_leads_and_not_beyond(embodiment: Embodiment) -> None:
    beyond = {}  # where it stands after the first chunk, in rows of its way behind the last one
    for stopping_rows in (0, 3):
        robot = Robot(embodiment)
        loop = loop_of(robot, Scripted(robot, value=0.3, power=1), stopping_rows=stopping_rows)
        loop.run("touch the cube")
        run(loop, robot, 0.3)
        (chunk,) = robot.chunks
        assert chunk.verdict is Verdict.ACCEPTED
        last = chunk.positions[-1, 0]
        beyond[stopping_rows] = (loop.plan.positions[-1, 0] - last) / (last - chunk.positions[-2, 0])
    assert beyond[0] > 0.4
    assert beyond[3] == pytest.approx(beyond[0] - 3, abs=0.2)


def test_in_stop_and_go_the_same_arms_stand_still_between_chunks(robot: Robot) -> None:
    loop = loop_of(robot, Scripted(robot, value=0.5, power=1, latency_ns=600_000_000))
    loop.run("go")
    run(loop, robot, 5.0)
    assert (np.abs(speeds(robot, 1.6)) < 1e-9).mean() > 0.3  # 0.66 of 1.46 s, but for the tail


def test_looking_ahead_every_plan_is_shorter_than_the_longest_one_of_its_regime(robot: Robot) -> None:
    loop = loop_of(
        robot,
        Scripted(robot, value=0.5, power=1),
        regime=RegimeSettings("overlap", "look_ahead"),
        max_plan_s=LOOKING_AHEAD_S,
    )
    loop.run("go")
    run(loop, robot, 4.0)
    lasting_s = [
        (plan.end_ns - chunk.answered_ns) / NS_PER_S for plan, chunk in zip(robot.acts, robot.chunks, strict=True)
    ]
    assert 1.5 < max(lasting_s) <= longest_plan_s(robot.embodiment.contract, SETTINGS.lead_s, loop.scheduler.mode)


def test_chunks_that_follow_each_other_are_joined_inside_the_jerk_limits(robot: Robot) -> None:
    loop = loop_of(
        robot,
        Scripted(robot, value=0.9, latency_ns=600_000_000),
        regime=RegimeSettings("overlap", "look_ahead"),
        max_plan_s=LOOKING_AHEAD_S,
    )
    loop.run("go")  # every chunk ends accelerating and the next one begins at rest
    run(loop, robot, 5.0)
    assert len(robot.chunks) > 3 and all(chunk.verdict is Verdict.ACCEPTED for chunk in robot.chunks)
    assert max(chunk.seam_jerk for chunk in robot.chunks) <= loop.limits.jerk.max()


def test_a_chunk_that_comes_just_as_motion_begins_waits_until_it_can_be_sent(robot: Robot) -> None:
    policy = Scripted(
        robot, value=0.5, power=1
    )  # answers 0.1 s after the request, on the first steps of the chunk before
    loop = loop_of(robot, policy, regime=RegimeSettings("overlap", "look_ahead"), max_plan_s=LOOKING_AHEAD_S)
    loop.run("go")
    run(loop, robot, 0.5)
    early = robot.chunks[1]
    sent_ns = robot.acts[1].knots_ns[0] - 50_000_000
    assert early.look_ahead and early.verdict is Verdict.ACCEPTED
    assert early.answered_ns + 10_000_000 < sent_ns < early.start_ns
    assert loop.limits.judge(loop.plan)


def test_ahead_the_state_is_where_the_plan_leads(robot: Robot) -> None:
    policy = Scripted(robot, value=0.5, power=1)
    loop = loop_of(robot, policy, regime=RegimeSettings("overlap", "look_ahead"), max_plan_s=LOOKING_AHEAD_S)
    loop.run("go")
    run(loop, robot, 2.5)
    ahead = robot.chunks[2]
    assert ahead.look_ahead
    (there,), _ = robot.acts[1].sample([ahead.start_ns])
    np.testing.assert_allclose(ahead.anchor[:14], there[:14], atol=0.005)
    assert np.abs(ahead.anchor[:14] - ahead.block.state[:14]).max() > 0.05  # which is a chunk earlier


def test_a_window_that_opens_in_motion_is_looked_beyond_from_where_the_plan_leads_too(robot: Robot) -> None:
    policy = Scripted(robot, value=0.9, power=1, latency_ns=400_000_000)
    loop = loop_of(robot, policy, regime=RegimeSettings("overlap", "look_ahead"), max_plan_s=LOOKING_AHEAD_S)
    loop.run("go")
    run(loop, robot, 3.0)
    policy.value = -0.9
    loop.reset("another begin, in motion")
    run(loop, robot, 1.0)
    opened = next(chunk for chunk in robot.chunks if chunk.epoch == loop.epoch)
    ahead = robot.chunks[robot.chunks.index(opened) + 1]
    assert ahead.look_ahead and ahead.block is opened.block  # no frame since
    (there,), _ = robot.acts[robot.chunks.index(opened)].sample([ahead.start_ns])
    np.testing.assert_allclose(ahead.anchor[:14], there[:14], atol=0.01)  # the robot moved by 0.09 meanwhile


def test_two_sessions_see_the_same_motion_half_a_block_apart(robot: Robot) -> None:
    policy = Scripted(robot, value=0.5, power=1)
    loop = loop_of(robot, policy, regime=RegimeSettings("overlap", "two_sessions"))
    loop.run("go")
    run(loop, robot, 4.0)
    assert [request.session for request in policy.requests[:6]] == [0, 1, 0, 1, 0, 1]
    assert [len(request.canvas) for request in policy.requests[:6]] == [1, 1, 8, 8, 8, 8]
    blocks = [frame_numbers(robot, chunk) for chunk in robot.chunks[2:6]]
    assert [block[1] - block[0] for block in blocks] == [3, 3, 3, 3]
    assert np.diff([block[-1] for block in blocks]).tolist() == [12, 12, 12]
    assert (speeds(robot, 1.0) > 0).all()


def test_slowed_the_model_is_shown_the_steps_and_not_the_seconds(robot: Robot) -> None:
    policy = Scripted(robot, value=0.5, power=1, latency_ns=950_000_000)
    loop = loop_of(robot, policy, regime=RegimeSettings("slowed"), max_plan_s=LOOKING_AHEAD_S)
    loop.run("go")
    run(loop, robot, 9.0)
    assert loop.regime == "slowed" and loop.scheduler.mode.speed == pytest.approx(0.6)  # 0.8 of 0.8 s / 1.01 s
    assert np.diff(frame_numbers(robot, robot.chunks[-1])).tolist() == [5] * 7  # three steps at 0.6 of 30 a second
    even = 0.6 * 0.5 * 0.2 / (23 / 30)
    np.testing.assert_allclose(speeds(robot, 6.0), even, rtol=0.15)


def test_the_regime_follows_the_latency_and_says_so(robot: Robot) -> None:
    policy = Scripted(robot, value=0.2, power=1)
    loop = loop_of(robot, policy, regime=RegimeSettings("auto"), max_plan_s=LOOKING_AHEAD_S)
    loop.run("go")
    assert loop.regime == "stop_and_go"
    run(loop, robot, 2.2)
    assert loop.regime == "overlap" and "two_sessions" in loop.message
    policy.latency_ns = 2_000_000_000
    run(loop, robot, 6.0)
    assert loop.regime == "stop_and_go"
    assert robot.chunks[-1].verdict is Verdict.ACCEPTED


def test_a_chunk_without_time_for_all_steps_gets_fewer_and_says_so(robot: Robot) -> None:
    policy = Scripted(robot, value=0.2, power=1, latency_ns=735_000_000)
    regime = RegimeSettings("overlap", "look_ahead")
    loop = loop_of(robot, policy, regime=regime, max_plan_s=LOOKING_AHEAD_S, deadline_steps=True)
    loop.run("go")
    run(loop, robot, 4.0)
    assert {request.steps for request in policy.requests} <= {4, 2, 1}
    for chunk, request in zip(robot.chunks, policy.requests, strict=False):
        assert (chunk.full_steps, chunk.reply.steps) == (4, request.steps)
        assert chunk.deadline_s is None or chunk.deadline_s < 0.9
    policy.latency_ns = 900_000_000
    run(loop, robot, 4.0)
    assert policy.requests[-1].steps == 1


def test_with_the_rule_switched_off_every_chunk_gets_all_steps(robot: Robot) -> None:
    policy = Scripted(robot, value=0.2, power=1, latency_ns=900_000_000)
    loop = loop_of(robot, policy, regime=RegimeSettings("overlap", "look_ahead"), max_plan_s=LOOKING_AHEAD_S)
    loop.run("go")
    run(loop, robot, 4.0)
    assert {request.steps for request in policy.requests} == {4}
