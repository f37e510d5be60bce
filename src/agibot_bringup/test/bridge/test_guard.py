"""The guard lets a good stream pass, and stops for whatever cannot be right."""

import math

import pytest

from agibot_bringup.bridge.guard import NS_PER_S, State
from agibot_bringup.bridge.units import LEFT_GRIPPER, LIFT, PITCH, Group

from .scene import TICK_NS, Scene

ARM = "idx21_arm_l_joint1"
FIRMWARE_STEP_RAD = 0.2618


def test_nothing_is_sent_before_it_is_activated_and_states_pass_all_along(scene: Scene) -> None:
    assert scene.guard.states(scene.ns) is None
    scene.tick()
    joints, positions, speeds = scene.guard.states(scene.ns)
    assert dict(zip(joints, positions, strict=True)) == pytest.approx(scene.pose) and not any(speeds)
    assert scene.command() == [] and scene.guard.state(scene.ns) is State.INACTIVE
    assert scene.guard.activate(scene.ns) == "" and scene.guard.state(scene.ns) is State.WAITING
    assert set(scene.command()) == set(Group) and scene.guard.state(scene.ns) is State.STREAMING


def test_nan_is_not_sent_and_a_group_that_is_partly_nan_stays_as_it_is(scene: Scene) -> None:
    scene.active()
    assert scene.command_nothing() == [] and scene.guard.state(scene.ns) is State.WAITING
    assert Group.ARMS not in scene.command(**{ARM: math.nan})
    scene.tick(5)
    assert not any(group is Group.ARMS for _, group, _ in scene.sent)
    scene.command()
    scene.tick()
    scene.command(**{ARM: math.nan, "idx22_arm_l_joint2": 0.15})
    scene.tick(2)
    arms = [numbers for _, group, numbers in scene.sent if group is Group.ARMS]
    assert len(arms) > 1 and all(numbers == arms[0] for numbers in arms) and not scene.guard.stopped


def test_the_stream_goes_on_when_ros2_control_falls_silent(scene: Scene) -> None:
    scene.active().command()
    scene.sent.clear()
    scene.tick(100)
    assert scene.guard.state(scene.ns) is State.HOLDING
    for group in Group:
        sent_ns = [ns for ns, sent, _ in scene.sent if sent is group]
        assert len(sent_ns) == 100  # in one second
    assert {tuple(numbers) for _, group, numbers in scene.sent if group is Group.WAIST} == {(0.3, 0.41)}


def test_a_step_from_where_the_robot_is_beyond_the_firmwares_stops(scene: Scene) -> None:
    scene.active().command()
    for offset in (0.15, FIRMWARE_STEP_RAD - 1e-6):  # the robot does not follow
        assert Group.ARMS in scene.command(**{ARM: scene.pose[ARM] + offset})
    assert scene.command(**{ARM: scene.pose[ARM] + FIRMWARE_STEP_RAD + 1e-6}) == []
    assert "from where it is, allowed are 0.2618" in scene.guard.stopped and ARM in scene.guard.stopped


def test_a_step_from_one_command_to_the_next_is_judged_too(scene: Scene) -> None:
    scene.active().command()
    scene.command(**{ARM: scene.pose[ARM] - 0.2})
    assert scene.command(**{ARM: scene.pose[ARM] + 0.2}) == []
    assert "from the last command" in scene.guard.stopped


@pytest.mark.parametrize(("joint", "largest"), [(ARM, 0.05), (LIFT, 0.01)])
def test_the_first_command_must_begin_where_the_robot_is(scene: Scene, joint: str, largest: float) -> None:
    scene.active()
    assert scene.command(**{joint: scene.pose[joint] + largest + 1e-6}) == []
    assert f"the first command {joint} to" in scene.guard.stopped
    assert scene.guard.reset(scene.ns) == ""
    assert set(scene.command(**{joint: scene.pose[joint] + largest - 1e-6})) == set(Group)


def test_the_lift_has_its_own_step_and_a_gripper_that_holds_an_object_is_let_be(scene: Scene) -> None:
    scene.active().command()
    assert Group.LEFT_GRIPPER in scene.command(**{LEFT_GRIPPER: 0.0})
    assert scene.command(**{LIFT: 0.41 + 0.06}) == [] and LIFT in scene.guard.stopped


def test_a_command_beyond_the_range_stops_but_a_joint_beyond_it_may_be_held(scene: Scene) -> None:
    scene.pose[ARM] = 3.15
    scene.active()
    assert Group.ARMS in scene.command()
    assert scene.command(**{ARM: 3.16}) == []
    assert f"{ARM} to 3.16, its range is -3.14 … 3.14" in scene.guard.stopped


# An open gripper's report of 34.9 is 0.7859 rad and of 35.0 is 0.7850; the contract's range ends between them.
END_STOPS = [(LEFT_GRIPPER, 0.7859, 0.7850), (PITCH, 0.5237, 0.5234), (LIFT, -0.0004, 0.0002)]


@pytest.mark.parametrize(("joint", "beyond", "within"), END_STOPS)
def test_a_joint_is_held_at_its_end_stop_while_the_reading_flickers(
    scene: Scene, joint: str, beyond: float, within: float
) -> None:
    scene.pose[joint] = beyond
    scene.active().command(**{joint: beyond})
    scene.sent.clear()
    for reading in (within, beyond, within, within):
        scene.pose[joint] = reading
        scene.tick()
        assert set(scene.command(**{joint: beyond})) == set(Group) and scene.guard.stopped == ""
    assert scene.command(**{joint: beyond + math.copysign(1e-4, beyond)}) == []  # no further
    assert f"{joint} to" in scene.guard.stopped and "its range is" in scene.guard.stopped


@pytest.mark.parametrize(("joint", "beyond", "within"), END_STOPS)
def test_a_first_command_may_be_any_pose_that_was_read_since_the_activation(
    scene: Scene, joint: str, beyond: float, within: float
) -> None:
    scene.pose[joint] = within
    scene.active()
    for reading in (beyond, within):  # the controllers begin at the one, and the other has been heard since
        scene.pose[joint] = reading
        scene.tick()
    assert set(scene.command(**{joint: beyond})) == set(Group)


def test_a_joint_that_came_back_into_its_range_does_not_leave_it_again(scene: Scene) -> None:
    scene.pose[ARM] = 3.15
    scene.active().command()
    scene.pose[ARM] = 3.13
    scene.tick()
    assert Group.ARMS in scene.command()
    assert scene.command(**{ARM: 3.15}) == [] and "its range is -3.14 … 3.14" in scene.guard.stopped


@pytest.mark.parametrize("group", Group)
def test_a_group_that_falls_silent_stops_the_stream_in_time(scene: Scene, group: Group) -> None:
    scene.active().command()
    scene.silent.add(group)
    silent_since_ns = scene.ns
    scene.sent.clear()
    scene.tick(50)
    timeout_ns = scene.guard.settings.feedback_timeout_s * NS_PER_S
    assert scene.guard.stopped.startswith(f"feedback: {group.value}: silent for")
    assert max(ns for ns, _, _ in scene.sent) - silent_since_ns <= timeout_ns
    assert scene.guard.states(scene.ns) is None  # ros2_control is not told what is old


def test_a_command_after_a_silence_is_not_judged_by_old_feedback(scene: Scene) -> None:
    scene.active().command()
    scene.ns += NS_PER_S
    assert scene.command() == [] and scene.guard.state(scene.ns) is State.STOPPED


@pytest.mark.parametrize("bad", [[math.nan] * 2, [0.3, math.inf], [0.3], [0.3, 0.4, 0.5]])
def test_feedback_that_is_no_position_stops(scene: Scene, bad: list[float]) -> None:
    scene.active().command()
    scene.guard.hear_feedback(Group.WAIST, bad, None, scene.ns)
    assert "waist" in scene.guard.stopped and scene.guard.states(scene.ns) is None
    assert scene.guard.reset(scene.ns) != ""
    scene.tick()
    assert scene.guard.reset(scene.ns) == ""


def test_it_is_not_activated_while_feedback_disagrees_with_the_ranges(scene: Scene) -> None:
    scene.pose[LIFT] = 41.0  # cm where m are declared
    scene.tick()
    reason = scene.guard.activate(scene.ns)
    assert "idx01_body_joint1 reads 41" in reason and not scene.guard.active
    assert scene.command() == [] and scene.guard.states(scene.ns) is None
    scene.pose[LIFT] = 0.41
    scene.tick()
    assert scene.guard.activate(scene.ns) == ""


def test_it_is_not_activated_before_every_group_was_heard(scene: Scene) -> None:
    scene.silent.add(Group.HEAD)
    scene.tick()
    assert scene.guard.activate(scene.ns) == "head: nothing reported yet"


def test_feedback_that_leaves_its_range_while_active_stops(scene: Scene) -> None:
    scene.active().command()
    scene.pose[ARM] = 3.3
    scene.tick()
    assert f"{ARM} is at 3.3" in scene.guard.stopped


def test_a_stop_is_latched_and_a_reset_begins_where_the_robot_is(scene: Scene) -> None:
    scene.active().command()
    scene.guard.call_for_stop("SafeStop")
    scene.sent.clear()
    scene.tick(20)
    assert scene.command() == [] and scene.sent == [] and scene.guard.stopped == "SafeStop"
    scene.guard.call_for_stop("another")
    assert scene.guard.stopped == "SafeStop"  # the first reason is the one that is told
    scene.pose[ARM] += 1.0  # somebody moved the arm by hand
    scene.tick()
    assert scene.guard.reset(scene.ns) == ""
    scene.tick(5)
    assert scene.sent == []  # the old command is forgotten
    assert Group.ARMS in scene.command()


def test_a_stop_that_is_still_called_for_is_not_reset(scene: Scene) -> None:
    scene.active().command()
    scene.guard.press_stop(True, "estop")
    assert scene.guard.reset(scene.ns) == "estop" and scene.command() == []
    scene.guard.press_stop(False, "estop")
    assert scene.command() == []  # released is not reset
    assert scene.guard.reset(scene.ns) == ""
    assert Group.ARMS in scene.command()


def test_a_stop_called_for_before_the_activation_keeps_it_away_until_a_reset(scene: Scene) -> None:
    scene.tick()
    scene.guard.call_for_stop("SafeStop")
    assert scene.guard.state(scene.ns) is State.INACTIVE and scene.guard.activate(scene.ns) == "SafeStop"
    scene.guard.deactivate()
    assert scene.guard.activate(scene.ns) == "SafeStop"
    assert scene.guard.reset(scene.ns) == "" and scene.command() == []  # a reset activates nothing
    assert scene.guard.activate(scene.ns) == ""


def test_an_estop_that_was_released_before_the_activation_keeps_it_away_until_a_reset(scene: Scene) -> None:
    scene.tick()
    scene.guard.press_stop(True, "estop")
    assert scene.guard.activate(scene.ns) == scene.guard.reset(scene.ns) == "estop"
    scene.guard.press_stop(False, "estop")
    assert scene.guard.activate(scene.ns) == "estop"
    assert scene.guard.reset(scene.ns) == "" and scene.guard.activate(scene.ns) == ""


def test_a_stop_called_for_outlasts_a_deactivation(scene: Scene) -> None:
    scene.active().command()
    scene.guard.call_for_stop("~/stop was called")
    scene.guard.deactivate()
    assert scene.guard.activate(scene.ns) == "~/stop was called" and scene.command() == []
    scene.guard.call_for_stop("SafeStop")
    assert scene.guard.reset(scene.ns) == "" and scene.guard.activate(scene.ns) == ""


def test_a_stop_that_was_called_for_after_another_outlasts_a_deactivation_too(scene: Scene) -> None:
    scene.active().command()
    scene.guard.stop("feedback: silent")
    scene.guard.call_for_stop("SafeStop")
    assert scene.guard.stopped == "feedback: silent"
    scene.guard.deactivate()
    assert scene.guard.activate(scene.ns) == "SafeStop"


def test_a_silence_ends_by_an_activation_which_asks_for_all_that_a_reset_does(scene: Scene) -> None:
    scene.active().command()
    scene.silent.add(Group.HEAD)
    scene.tick(50)
    scene.guard.deactivate()
    assert scene.guard.activate(scene.ns).startswith("head: silent for")
    scene.silent.clear()
    scene.active()
    assert Group.HEAD in scene.command()


def test_what_the_adapter_objects_to_is_neither_activated_nor_reset(scene: Scene) -> None:
    scene.tick()
    assert scene.guard.activate(scene.ns, "another commands it") == "another commands it" == scene.guard.refused
    scene.active().command()
    scene.guard.stop("feedback: silent")
    assert scene.guard.reset(scene.ns, "another commands it") == "another commands it" and scene.guard.stopped
    assert scene.guard.reset(scene.ns) == ""


def test_a_robot_that_cannot_be_asked_stops_and_is_not_activated_until_it_can(scene: Scene) -> None:
    scene.active().command()
    scene.guard.hear_nothing("SDK: no answer")
    assert scene.guard.stopped == "SDK: no answer, then call ~/reset" and scene.guard.states(scene.ns) is None
    scene.guard.deactivate()
    assert scene.guard.activate(scene.ns) == "SDK: no answer"
    scene.guard.hear_nothing("")
    assert scene.guard.activate(scene.ns) == ""


def test_speeds_that_the_robot_does_not_report_are_those_of_its_positions(scene: Scene) -> None:
    entries = scene.table[Group.WAIST]
    for lift in (0.41, 0.411):
        scene.ns += TICK_NS
        raw = [entry.feedback.raw(value) for entry, value in zip(entries, (0.3, lift), strict=True)]
        scene.guard.hear_feedback(Group.WAIST, raw, None, scene.ns)
    assert scene.guard.readings[Group.WAIST].velocities == pytest.approx((0.0, 0.1))


def test_a_message_without_one_position_for_each_joint_stops(scene: Scene) -> None:
    scene.active()
    assert scene.guard.hear_command([ARM], [0.1, 0.2], scene.ns) == []
    assert scene.guard.stopped == "command: 2 positions for 1 joints"
