"""Whatever stops the robot brakes it inside the limits, and what follows begins anew."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from dreamzero_policy.runtime.chunk import Verdict
from dreamzero_policy.runtime.contract import Box
from dreamzero_policy.runtime.embodiment import Embodiment
from dreamzero_policy.runtime.faults import Fault
from dreamzero_policy.runtime.geometry import StaysInWorkspace
from dreamzero_policy.runtime.loop import Phase
from dreamzero_policy.runtime.observation import NS_PER_S
from dreamzero_policy.runtime.plan import smootherstep
from dreamzero_policy.runtime.policy import Failure, Request

from .small_world import Robot, Scripted, loop_of, rest_bound_ns, run


def test_halting_comes_to_rest_and_asks_for_nothing_more(robot: Robot) -> None:
    policy = Scripted(robot, value=0.8)
    loop = loop_of(robot, policy)
    loop.run("go")
    run(loop, robot, 0.7)
    asked = len(policy.requests)
    loop.halt("stopped")
    halted_ns = robot.ns
    assert (robot.acts[-1].velocities[-1] == 0).all()
    assert (robot.acts[-1].end_ns - halted_ns) / NS_PER_S < 0.4
    run(loop, robot, 1.0)
    assert len(policy.requests) == asked and loop.phase is Phase.IDLE


@pytest.mark.parametrize("jump_s", [-100, 100])
def test_a_clock_that_jumps_brakes_the_robot_and_begins_a_new_epoch_from_rest(robot: Robot, jump_s: int) -> None:
    policy = Scripted(robot, value=0.8)
    loop = loop_of(robot, policy)
    loop.run("go")
    run(loop, robot, 0.8)
    assert loop.moving
    told, rest_within_ns = robot.plan.sample([robot.ns]), rest_bound_ns(loop)
    robot.ns += jump_s * NS_PER_S
    robot.begin_ns = jumped_ns = robot.ns
    loop.clock_jumped()
    np.testing.assert_allclose(loop.plan.sample([jumped_ns])[0], told[0], atol=1e-6)  # where the robot is
    at_rest_ns = robot.acts[-1].end_ns
    assert jumped_ns < at_rest_ns <= jumped_ns + rest_within_ns
    run(loop, robot, 1.5)
    assert loop.faults.counts == {Fault.CLOCK_JUMPED: 1}
    assert policy.prompts[-1] == ("go", 2)
    assert robot.chunks[-1].epoch == 2 and robot.chunks[-1].verdict is Verdict.ACCEPTED
    first = next(chunk for chunk in robot.chunks if chunk.epoch == 2)
    assert first.block.observation_ns >= at_rest_ns - NS_PER_S // 30


@pytest.mark.parametrize("way", ["halt", "hold", "model"])
def test_whatever_stops_a_moving_robot_brakes_it_inside_the_limits_and_their_own_stopping_time(
    robot: Robot, way: str
) -> None:
    policy = Scripted(robot, value=0.9)
    loop = loop_of(robot, policy)
    loop.run("go")
    for _ in robot.ticks(1.0):
        loop.advance()
        if loop.plan is None or loop.plan.end_ns - robot.ns < 0.6 * NS_PER_S:
            continue
        break
    else:
        pytest.fail("no motion to stop")
    run(loop, robot, 0.4)
    stopped_ns, own_end_ns, rest_within_ns = robot.ns, loop.plan.end_ns, rest_bound_ns(loop)
    if way == "model":
        policy.answers.insert(0, (robot.ns, Failure("the model's process ended (exit code -9)")))
        loop.advance()
    else:
        getattr(loop, way)("stopped")
    braking = robot.acts[-1]
    assert braking.end_ns <= stopped_ns + rest_within_ns and braking.end_ns < own_end_ns
    assert loop.limits.judge(loop.plan) and (braking.velocities[-1] == 0).all()
    sent = len(robot.acts)
    if way == "hold":
        for _ in range(3):
            loop.hold("still")
    else:
        run(loop, robot, 1.0)
    assert len(robot.acts) == sent  # it brakes once


def test_a_held_robot_goes_on_with_a_new_window(robot: Robot) -> None:
    policy = Scripted(robot, value=0.2)
    loop = loop_of(robot, policy)
    loop.run("go")
    run(loop, robot, 0.6)
    loop.hold("camera head: silent")
    loop.hold("camera head: silent")
    assert policy.prompts == [("go", 1), ("go", 2)] and loop.message == "holding: camera head: silent"
    run(loop, robot, 0.6)
    assert [len(request.canvas) for request in policy.requests] == [1, 1]
    assert robot.chunks[-1].epoch == 2


class Leaning:
    """A hand 0.8 m from waist and shoulder: leaning forwards moves it out, the arm takes it back."""

    hands = ("left",)

    def __init__(self, joints: Sequence[str]) -> None:
        self.columns = [joints.index(name) for name in ("idx02_body_joint2", "idx21_arm_l_joint1")]

    def hand_positions(self, hand: str, positions: np.ndarray) -> np.ndarray:
        waist, arm = positions[:, self.columns].T
        return np.stack([0.8 * (waist - arm), 0 * waist, 0 * waist], axis=1)


class LeansAndTakesBack(Scripted):
    """Waist and arm move together, so that the hand stays where it is."""

    def submit(self, request: Request) -> None:
        super().submit(request)
        due_ns, reply = self.answers.pop()
        rows, state = np.zeros((24, 32), np.float32), self.robot.embodiment.contract.model.state_joints
        for name in ("idx02_body_joint2", "idx21_arm_l_joint1"):
            rows[:, state.index(name)] = 0.9 * smootherstep(np.linspace(0, 1, 24))
        self.answers.append((due_ns, replace(reply, actions=rows)))


def test_no_workspace_keeps_a_robot_from_stopping(embodiment: Embodiment) -> None:
    rests_ns = {}
    for bounded in (False, True):
        robot = Robot(embodiment)
        loop = loop_of(robot, LeansAndTakesBack(robot), stopping_rows=0)
        if bounded:  # every joint brakes for itself, which takes the hand out of it
            box = Box(lower=(-9, -9, -9), upper=(0.01, 9, 9))
            loop.limits.checks = (StaysInWorkspace(Leaning(robot.joints), {"left": box}),)
        loop.run("lean")
        run(loop, robot, 0.6)
        assert loop.moving
        loop.halt("stop")
        run(loop, robot, 0.01)
        rests_ns[bounded] = loop.plan.end_ns
    assert rests_ns[True] == rests_ns[False]
