"""What the plan executes before an answer can take over is told to the model, and executed as it was planned."""

from dataclasses import replace

import numpy as np
import pytest

from dreamzero_policy.runtime.embodiment import Embodiment
from dreamzero_policy.runtime.loop import Loop
from dreamzero_policy.runtime.observation import NS_PER_S
from dreamzero_policy.runtime.policy import Request
from dreamzero_policy.runtime.regime import RegimeSettings

from .small_world import LOOKING_AHEAD_S, Robot, Scripted, loop_of, run


class Continuing(Scripted):
    """Sessions of different opinions: each wants the arms to go its own way from where it saw them.

    Told what is settled, a session goes its way from there.
    """

    def submit(self, request: Request) -> None:
        super().submit(request)
        due_ns, reply = self.answers.pop()
        rows = reply.actions.copy()
        if request.session:
            rows[:, :14] += 0.3
        if request.prefix is not None:
            count, columns = request.prefix.held_rows, request.prefix.columns
            rows[:, columns] += request.prefix.rows[count - 1] - rows[count - 1, columns]
            rows[:count, columns] = request.prefix.rows[:count]
            reply = replace(reply, held_rows=count)
        self.answers.append((due_ns, replace(reply, actions=rows)))


OVERLAPPING = RegimeSettings("overlap", "two_sessions")


def played(embodiment: Embodiment, seconds: float = 5.0, **settings: object) -> tuple[Robot, Continuing, Loop]:
    robot = Robot(embodiment)
    policy = Continuing(robot, value=0.5, power=1)
    loop = loop_of(robot, policy, **({"regime": OVERLAPPING, "smoothing_window": 5} | settings))
    loop.run("go")
    run(loop, robot, seconds)
    return robot, policy, loop


@pytest.mark.parametrize("soft", [False, True])
def test_the_model_is_told_what_the_robot_does_until_the_answer_is_there(embodiment: Embodiment, soft: bool) -> None:
    robot, policy, _ = played(embodiment, prefix_conditioning=True, prefix_soft_mask=soft)
    sent = [(r, c) for r, c in zip(policy.requests, robot.chunks, strict=False) if r.prefix is not None]
    assert len(sent) >= 4
    arms = slice(0, 14)
    instants, told = zip(*robot.told, strict=True)
    for request, chunk in sent:
        rows = np.zeros((24, 32), np.float32)
        count = chunk.reply.held_rows
        rows[:count, request.prefix.columns] = request.prefix.rows[:count]
        due_ns = chunk.block.observation_ns + np.arange(count) * NS_PER_S / 30
        done = np.array([np.interp(due_ns, instants, column) for column in np.array(told).T[arms]]).T
        np.testing.assert_allclose(embodiment.positions(rows, chunk.anchor)[:count, arms], done, atol=2e-3)
        assert count == chunk.first_row == request.prefix.held_rows
        assert len(request.prefix.rows) == (12 if soft else count)  # half a chunk is in hand
        assert count in (5, 6)  # a frame comes, 0.1 s to the answer and 0.06 s of lead, up to the grid of 30 Hz


def test_a_continued_plan_has_no_jump_where_a_chunk_takes_over(embodiment: Embodiment) -> None:
    jumps = {}
    for conditioned in (False, True):
        robot, _, loop = played(embodiment, prefix_conditioning=conditioned)
        assert not loop.counters.rejected and len(robot.chunks) >= 8
        jumps[conditioned] = max(chunk.seam_position_jump for chunk in robot.chunks[4:])
    assert jumps[False] > 0.04  # what the two disagree about: 0.3 of 0.2 rad, less what was blended
    assert jumps[True] < 0.01


def test_held_rows_are_executed_as_they_were_planned_though_the_answer_comes_early(embodiment: Embodiment) -> None:
    robot = Robot(embodiment)
    policy = Continuing(robot, value=0.5, power=1, latency_ns=250_000_000)
    loop = loop_of(robot, policy, regime=OVERLAPPING, prefix_conditioning=True)
    loop.run("go")
    run(loop, robot, 3.0)
    policy.latency_ns = 20_000_000
    plans = []
    for _ in robot.ticks(1.0):
        before = loop.plan
        loop.advance()
        if loop.plan is not before and robot.chunks[-1].reply.held_rows:
            plans.append((before, loop.plan, robot.chunks[-1]))
    assert len(plans) >= 2
    for before, after, chunk in plans[1:]:  # the first was asked for before answers became fast
        assert chunk.first_row == chunk.reply.held_rows >= 9
        now_ns = chunk.answered_ns + 50_000_000  # the first point; until there a controller goes its own way
        instants = np.arange(now_ns, chunk.start_ns, NS_PER_S // 30)
        assert len(instants) >= 4
        np.testing.assert_allclose(after.sample(instants)[0], before.sample(instants)[0], atol=2e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"regime": OVERLAPPING},  # switched off
        {"regime": RegimeSettings("stop_and_go"), "prefix_conditioning": True},
        {
            "regime": RegimeSettings("overlap", "look_ahead"),
            "prefix_conditioning": True,
            "max_plan_s": LOOKING_AHEAD_S,
        },
    ],
)
def test_nothing_is_sent_where_nothing_is_settled(embodiment: Embodiment, settings: dict) -> None:
    _, policy, _ = played(embodiment, 3.0, **settings)
    assert len(policy.requests) >= 3 and all(request.prefix is None for request in policy.requests)


def test_a_model_that_ignores_the_prefix_takes_over_as_soon_as_it_can(embodiment: Embodiment) -> None:
    robot = Robot(embodiment)
    policy = Scripted(robot, value=0.5, power=1, latency_ns=250_000_000)
    loop = loop_of(robot, policy, regime=OVERLAPPING, prefix_conditioning=True)
    loop.run("go")
    run(loop, robot, 3.0)
    policy.latency_ns = 20_000_000
    run(loop, robot, 1.0)
    assert policy.requests[-2].prefix is not None
    assert (robot.chunks[-1].reply.held_rows, robot.chunks[-1].first_row) == (0, 3)
