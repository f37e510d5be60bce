"""A policy that is away for a while: the robot finishes what it was told, rests, and goes on with a new epoch."""

import pytest

from dreamzero_policy.runtime.embodiment import Embodiment
from dreamzero_policy.runtime.faults import Fault, Trouble
from dreamzero_policy.runtime.loop import Loop, Phase
from dreamzero_policy.runtime.observation import NS_PER_S
from dreamzero_policy.runtime.policy import Failure, Interruption, Remark, Resumption

from .small_world import Robot, Scripted, loop_of, run

AWAY = Trouble(Fault.SERVER_UNREACHABLE, "server", "the connection was lost; attempt 1 to connect in 0.5 s")
STILL_AWAY = Trouble(Fault.SERVER_UNREACHABLE, "server", "not reached; attempt 2 to connect in 1.0 s")


@pytest.fixture
def robot(embodiment: Embodiment) -> Robot:
    return Robot(embodiment)


@pytest.fixture
def policy(robot: Robot) -> Scripted:
    return Scripted(robot, value=0.5)


@pytest.fixture
def loop(robot: Robot, policy: Scripted) -> Loop:
    """In motion, with a plan that is not finished."""
    loop = loop_of(robot, policy)
    loop.run("touch")
    while loop.plan is None or not loop.moving:
        run(loop, robot, 0.02)
    return loop


def tell(policy: Scripted, *answers: object) -> None:
    """What was asked before is never answered."""
    policy.answers = [(policy.robot.ns, answer) for answer in answers]


def test_a_robot_whose_policy_is_interrupted_finishes_its_plan_and_asks_nothing(
    loop: Loop, robot: Robot, policy: Scripted
) -> None:
    plan, acts, epoch, asked = loop.plan, len(robot.acts), loop.epoch, len(policy.requests)
    tell(policy, Interruption(AWAY))
    run(loop, robot, 3.0)
    assert (len(robot.acts), len(policy.requests)) == (acts, asked)
    assert loop.plan is plan and plan.end_ns < robot.ns and not loop.moving
    assert (loop.epoch, loop.phase, loop.outage, loop.message) == (epoch + 1, Phase.WAITING, AWAY, AWAY.text)
    assert policy.prompts[-1] == ("touch", loop.epoch)


def test_it_is_told_of_every_attempt_and_stays_in_the_same_epoch(loop: Loop, robot: Robot, policy: Scripted) -> None:
    tell(policy, Interruption(AWAY))
    run(loop, robot, 0.1)
    epoch = loop.epoch
    tell(policy, Interruption(STILL_AWAY))
    run(loop, robot, 0.1)
    assert (loop.epoch, loop.outage, loop.message) == (epoch, STILL_AWAY, STILL_AWAY.text)


def test_it_goes_on_by_itself_with_a_new_window(loop: Loop, robot: Robot, policy: Scripted) -> None:
    tell(policy, Interruption(AWAY))
    run(loop, robot, 2.0)
    chunks, asked = len(robot.chunks), len(policy.requests)
    tell(policy, Resumption("there again"))
    run(loop, robot, 1.0)
    request = policy.requests[asked]
    assert (request.epoch, len(request.canvas), len(request.stamps_ns)) == (loop.epoch, 1, 1)
    assert loop.outage is None and len(robot.chunks) > chunks
    assert robot.chunks[chunks].verdict.name == "ACCEPTED"


def test_one_that_is_over_before_the_loop_looks_begins_a_new_epoch_all_the_same(
    loop: Loop, robot: Robot, policy: Scripted
) -> None:
    epoch = loop.epoch
    tell(policy, Interruption(AWAY), Resumption("there again"))
    run(loop, robot, 1.0)
    assert loop.epoch == epoch + 1
    assert policy.requests[-1].epoch == loop.epoch


def test_an_instruction_while_the_policy_is_away_is_followed_when_it_is_back(
    loop: Loop, robot: Robot, policy: Scripted
) -> None:
    tell(policy, Interruption(AWAY))
    run(loop, robot, 2.0)
    asked = len(policy.requests)
    loop.halt("stopped")
    loop.run("lift")
    run(loop, robot, 0.5)
    assert len(policy.requests) == asked
    tell(policy, Resumption("there again"))
    run(loop, robot, 0.5)
    assert policy.prompts[-1] == ("lift", loop.epoch)
    assert policy.requests[asked].epoch == loop.epoch


def test_being_away_is_no_silence_of_the_model(loop: Loop, robot: Robot, policy: Scripted) -> None:
    tell(policy, Interruption(AWAY))
    run(loop, robot, 1.5 * loop.settings.inference_timeout_s)
    assert loop.phase is Phase.WAITING and loop.failure is None


def test_what_only_counts_is_counted_and_nothing_else_changes(loop: Loop, robot: Robot, policy: Scripted) -> None:
    epoch, twice = loop.epoch, Trouble(Fault.SERVER_ANSWER_OUTDATED, "server", "answered once more")
    policy.answers.insert(0, (robot.ns, Remark(twice)))
    run(loop, robot, 1.0)
    assert loop.faults.counts[Fault.SERVER_ANSWER_OUTDATED] == 1
    assert (loop.epoch, loop.outage, loop.phase is not Phase.FAULT) == (epoch, None, True)


def test_a_server_that_refuses_is_a_fault_with_its_own_name_that_brakes(
    loop: Loop, robot: Robot, policy: Scripted
) -> None:
    end_ns = loop.plan.end_ns
    tell(policy, Interruption(AWAY), Failure("another checkpoint", Fault.SERVER_REFUSED))
    run(loop, robot, 0.05)
    assert (loop.phase, loop.failure.fault, loop.outage) == (Phase.FAULT, Fault.SERVER_REFUSED, None)
    assert loop.plan.end_ns < end_ns or end_ns - robot.ns < 0.5 * NS_PER_S
