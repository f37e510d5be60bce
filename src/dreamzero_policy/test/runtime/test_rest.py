"""A robot that brakes is at rest within the stopping time of the limits, from anywhere in any accepted plan."""

import numpy as np
import pytest
import ruckig
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dreamzero_policy.runtime.chunk import Judgement, Verdict
from dreamzero_policy.runtime.contract import Contract, JointLimits
from dreamzero_policy.runtime.embodiment import Embodiment
from dreamzero_policy.runtime.limits import Limits
from dreamzero_policy.runtime.loop import Loop
from dreamzero_policy.runtime.observation import NS_PER_S
from dreamzero_policy.runtime.plan import Plan
from dreamzero_policy.runtime.regime import RegimeSettings
from dreamzero_policy.runtime.rest import longest_plan_s, stopping_s, too_long

from .small_world import TICK_NS, Robot, Scripted, loop_of, rest_bound_ns, run
from .test_plan import faded

STEP_NS = NS_PER_S // 30
LIMIT = JointLimits(lower=-3.0, upper=3.0, velocity=3.0, acceleration=9.0, jerk=180.0, step=0.2)


def test_stopping_takes_speed_over_acceleration_and_two_ramps() -> None:
    # 90 % of the acceleration, half of the jerk: 8.1 rad/s², 90 rad/s³. At the speed limit an acceleration can only
    # be wound down.
    assert stopping_s([3.0], [LIMIT]) == pytest.approx(9 / 90 + 3.0 / 8.1 + 8.1 / 90)
    assert stopping_s([0.0, -3.0], [LIMIT, LIMIT]) == stopping_s([3.0], [LIMIT])


def test_the_shipped_contract_keeps_within_the_default_of_max_plan_s(contract: Contract) -> None:
    assert longest_plan_s(contract, 0.06) == pytest.approx(1.337, abs=1e-3)


@pytest.mark.parametrize(
    ("regime", "max_plan_s", "refused"),
    [
        (RegimeSettings(), 1.5, ""),
        (RegimeSettings("overlap", "two_sessions"), 1.5, ""),
        (
            RegimeSettings("overlap", "look_ahead"),
            1.5,
            "takes 1.69 s in overlap (look_ahead), with its tail up to 2.14 s",
        ),
        (RegimeSettings("overlap", "look_ahead"), 1.7, ""),
        (RegimeSettings("auto"), 3.0, "takes 3.33 s in slowed (look_ahead) at 0.50 of the speed"),
        (RegimeSettings("auto"), 4.0, ""),
        (RegimeSettings(), 0.8, "takes 0.89 s in stop_and_go, with its tail up to 1.34 s"),
    ],
)
def test_a_regime_whose_plans_cannot_fit_is_refused_with_both_times(
    contract: Contract, regime: RegimeSettings, max_plan_s: float, refused: str
) -> None:
    reason = too_long(contract, 0.06, regime, max_plan_s)
    assert refused in reason and bool(refused) == bool(reason)
    assert not refused or f"max_plan_s is {max_plan_s:g}" in reason


@settings(deadline=None, max_examples=40)
@given(
    joint=st.integers(0, 13),
    reach=st.floats(-0.7, 0.7),
    from_stop=st.floats(0.0, 0.05),
    elapsed=st.floats(0.0, 1.0),
)
def test_braking_from_any_moment_of_an_accepted_plan_keeps_the_limits_and_the_time(
    contract: Contract, braked: Loop, joint: int, reach: float, from_stop: float, elapsed: float
) -> None:
    limits = Limits(contract.model.commanded_joints, contract.site.limits)
    loop, robot = braked, braked.world
    rows = np.tile((limits.lower + limits.upper) / 2, (24, 1))
    # There and back, turning close to the stop of the joint.
    there_and_back = reach * (1 - np.cos(np.linspace(0, 2 * np.pi, 24))) / 2
    stop = limits.upper[joint] - from_stop if reach > 0 else limits.lower[joint] + from_stop
    rows[:, joint] = stop - reach + there_and_back
    robot.ns = 1_000 * NS_PER_S
    plan = faded(Plan.rest(rows[0], robot.ns), rows, robot.ns + NS_PER_S // 10, 0.2)
    assume(limits.judge(plan))
    plan = plan.with_tail(limits.by_joint, STEP_NS)
    assume(limits.judge(plan))
    loop.plan, loop._resting = plan, None
    robot.acts.clear()
    robot.ns += round(elapsed * (plan.end_ns - robot.ns))
    now_ns, within_ns = robot.ns, rest_bound_ns(loop)
    loop.halt("stopped")
    assert limits.judge(loop.plan)
    assert loop.plan.end_ns <= max(now_ns, min(plan.end_ns, now_ns + within_ns + NS_PER_S // 20))


def moving(robot: Robot, policy: Scripted) -> Loop:
    """A loop whose robot is on its way."""
    loop = loop_of(robot, policy)
    loop.run("touch the red cube")
    while not loop.moving:
        run(loop, robot, 0.01)
    return loop


def test_a_brake_that_is_refused_when_it_is_asked_for_is_tried_again(
    embodiment: Embodiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    robot = Robot(embodiment)
    loop = moving(robot, Scripted(robot, value=0.3))
    before = loop.plan
    with monkeypatch.context() as refusing:
        refusing.setattr(Limits, "judge_joints", lambda *_: Judgement(Verdict.REJECTED_DURATION, "not now"))
        loop.halt("stopped")
        run(loop, robot, 0.02)
    assert loop.plan is before
    run(loop, robot, 0.02)
    assert loop.plan.end_ns < before.end_ns and loop.limits.judge(loop.plan)


def test_no_way_to_rest_that_can_be_computed_ends_no_node(
    embodiment: Embodiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> Plan:
        raise ruckig.RuckigError("no profile")

    robot = Robot(embodiment)
    loop = moving(robot, Scripted(robot, value=0.3))
    before = loop.plan
    monkeypatch.setattr(Plan, "with_tail", refuse)
    loop.halt("stopped")
    assert loop.plan is before  # whose own tail is the way to rest


def test_a_window_opens_only_when_the_plan_that_was_forgotten_has_come_to_rest(embodiment: Embodiment) -> None:
    robot = Robot(embodiment)
    policy = Scripted(robot, value=0.3)
    loop = moving(robot, policy)
    loop.halt("deactivated")
    at_rest_ns, asked = loop.plan.end_ns, len(policy.requests)
    loop.forget_plan()
    loop.run("touch the red cube")
    while robot.ns < at_rest_ns - TICK_NS:
        run(loop, robot, TICK_NS / NS_PER_S)
        assert len(policy.requests) == asked
    run(loop, robot, 0.5)
    assert len(policy.requests) > asked


@pytest.fixture(scope="module")
def braked(embodiment) -> Loop:
    robot = Robot(embodiment)
    return loop_of(robot, Scripted(robot))
