"""Surprise is told where a chunk was followed, and may hold the robot."""

from dataclasses import replace

import numpy as np

from dreamzero_policy.runtime.braking import BRAKE_WITHIN_NS
from dreamzero_policy.runtime.calibration import Calibration
from dreamzero_policy.runtime.embodiment import Embodiment
from dreamzero_policy.runtime.loop import Loop
from dreamzero_policy.runtime.observation import NS_PER_S
from dreamzero_policy.runtime.policy import Request, Surprise
from dreamzero_policy.runtime.regime import RegimeSettings
from dreamzero_policy.runtime.surprise import SurpriseSettings, SurpriseWatch

from .small_world import LOOKING_AHEAD_S, SETTINGS, Robot, Scripted, loop_of, rest_bound_ns, run


def cells_of(difference: float) -> np.ndarray:
    return np.full((2, 4, 4), difference, np.float32)


class Surprised(Scripted):
    """Says behind every answer to a block that could be compared how far off it was, as the worker does."""

    def submit(self, request: Request) -> None:
        super().submit(request)
        if request.followed:
            self.answers.append(
                (self.robot.ns + self.latency_ns, Surprise(request.epoch, cells_of(0.25 * request.epoch)))
            )


def test_surprise_is_told_and_changes_nothing_in_what_is_asked_or_sent(embodiment: Embodiment) -> None:
    seen, told = [], []
    for kind in (Scripted, Surprised):
        robot = Robot(embodiment)
        policy = kind(robot, value=0.2)
        loop = Loop(embodiment, robot.buffer, policy, robot, SETTINGS, session="test", on_surprise=told.append)
        loop.run("go")
        run(loop, robot, 5.0)
        requests = [(r.state.tobytes(), r.canvas.tobytes(), r.seed, r.steps) for r in policy.requests]
        seen.append((requests, [chunk.positions.tobytes() for chunk in robot.chunks], robot.told[-1][1].tobytes()))
    assert seen[0] == seen[1]
    assert [cells.mean() for cells in told] == [0.25] * (len(robot.chunks) - 1) and len(
        told
    ) > 2  # not for the frame that opened the window


def test_surprise_of_an_older_epoch_is_not_told(robot: Robot) -> None:
    told, policy = [], Scripted(robot)
    loop = Loop(robot.embodiment, robot.buffer, policy, robot, SETTINGS, session="test", on_surprise=told.append)
    loop.run("go")
    policy.answers += [(robot.ns, Surprise(0, cells_of(3.0))), (robot.ns, Surprise(1, cells_of(4.0)))]
    loop.advance()
    assert [cells.mean() for cells in told] == [4.0]


def test_only_blocks_in_which_a_chunk_was_followed_may_surprise(robot: Robot) -> None:
    policy = Scripted(robot, value=0.2)
    loop = loop_of(robot, policy)
    loop.run("go")
    run(loop, robot, 2.0)
    policy.value = 400.0  # beyond what the limits allow
    run(loop, robot, 3.0)
    verdicts = [bool(chunk.start_ns) for chunk in robot.chunks]
    followed = [request.followed for request in policy.requests]
    assert True in verdicts and False in verdicts
    assert followed[: len(verdicts) + 1] == [False, *verdicts[: len(followed) - 1]]


def test_looking_ahead_and_in_two_sessions_blocks_may_surprise_too(embodiment: Embodiment) -> None:
    for overlap in ("look_ahead", "two_sessions"):
        regime = RegimeSettings("overlap", overlap)
        robot = Robot(embodiment)
        policy = Scripted(robot, value=0.1, power=1)
        loop = loop_of(robot, policy, regime=regime, max_plan_s=5.0)
        loop.run("go")
        run(loop, robot, 5.0)
        whole = [r for r in policy.requests if r.canvas is not None and len(r.canvas) > 1]
        assert whole and all(request.followed for request in whole)
        assert not any(r.followed for r in policy.requests if r.canvas is None or len(r.canvas) == 1)


def test_a_robot_held_by_surprise_comes_to_rest_inside_the_limits_and_goes_on_after_its_time(robot: Robot) -> None:
    origin = {"contract_hash": "", "checkpoint_hash": "", "denoise_steps": 4, "regimes": ()}
    normal = Calibration.of(
        [[cells_of(size) for size in np.random.default_rng(0).uniform(0.1, 0.2, 200)]], np.zeros((4, 4), int), **origin
    )
    watch = SurpriseWatch(SurpriseSettings("hold", blocks=2, hold_s=1.0), normal, robot.now_ns)
    policy = Surprised(robot, value=0.5, power=1)
    settings = replace(SETTINGS, regime=RegimeSettings("overlap", "look_ahead"), max_plan_s=LOOKING_AHEAD_S)
    loop = Loop(robot.embodiment, robot.buffer, policy, robot, settings, session="test", on_surprise=watch.add)
    loop.run("go")
    held_ns, moved = [], False
    for _ in robot.ticks(6.0):
        trouble = watch.trouble()
        if trouble is not None:  # as the node does at its tick
            if not held_ns:
                moved, bound_ns = loop.moving, robot.ns + rest_bound_ns(loop) + BRAKE_WITHIN_NS
            held_ns.append(robot.ns)
            loop.hold(trouble.text)
        loop.advance(may_observe=trouble is None)
        assert loop.plan is None or loop.limits.judge(loop.plan)
        if held_ns and bound_ns < robot.ns < held_ns[0] + NS_PER_S:
            assert not robot.plan.sample([robot.ns])[1].any()
    assert moved and watch.blocks >= 4  # it was held in motion, and looked anew
    assert held_ns[-1] - held_ns[0] > NS_PER_S  # and was held again
    assert robot.chunks[-1].epoch > 1
