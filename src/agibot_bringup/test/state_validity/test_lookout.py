"""Which states are asked about and when, and what the answers make of them."""

import numpy as np
import pytest

from agibot_bringup.safety_gate.trajectory import Point, Received, Rejected
from dreamzero_policy.runtime.embodiment import Floats

from .scene import SERVICE, SETTINGS, Scene

STEPS = round(SETTINGS.horizon_s / SETTINGS.step_s)


def test_a_robot_that_stands_costs_one_question_a_look(scene: Scene) -> None:
    (asked,) = scene.look()
    np.testing.assert_array_equal(asked, scene.pose)
    assert scene.said == ("valid", f"{SERVICE} finds no fault with the states up to 1 s ahead")
    assert scene.question() is None, "the next look is not due yet"
    scene.pass_time(SETTINGS.period_s)
    assert len(scene.look()) == 1 and scene.lookout.looks == 2


def test_of_a_motion_every_step_up_to_the_horizon_is_asked_about_the_nearest_first(scene: Scene) -> None:
    scene.send(0.5, 2.0)
    asked = np.array(scene.look())
    moved = [scene.joints.index(joint) for joint in scene.controllers[0].joints]
    reached = asked[:, moved] - scene.pose[moved]
    assert len(asked) == STEPS + 1
    np.testing.assert_allclose(reached[:, 0], np.interp(np.arange(STEPS + 1) * 0.1, [0, 2.0], [0, 0.5]), atol=0.01)
    others = np.setdiff1d(np.arange(len(scene.joints)), moved)
    np.testing.assert_array_equal(asked[:, others], np.tile(scene.pose[others], (STEPS + 1, 1)))


def test_the_state_behind_the_end_of_a_motion_is_asked_about_once(scene: Scene) -> None:
    scene.send(0.1, 0.35)
    assert len(scene.look()) == 5  # now, 0.1, 0.2, 0.3, and where it ends


def test_one_question_is_open_at_a_time_and_nothing_is_valid_before_the_whole_look_is_answered(scene: Scene) -> None:
    scene.send(0.5, 2.0)
    for _ in range(STEPS + 1):
        question = scene.question()
        assert scene.question() is None and scene.said[0] == "waiting"
        scene.answer(question)
    assert scene.question() is None and scene.said[0] == "valid"


def test_a_state_that_is_not_valid_is_told_at_once_with_when_and_why_and_ends_the_look(scene: Scene) -> None:
    wall = scene.pose[scene.joints.index(scene.controllers[0].joints[0])] + 0.15

    def beyond(positions: Floats) -> str | None:
        reached = positions[scene.joints.index(scene.controllers[0].joints[0])]
        return "left_hand touches wall" if reached > wall else None

    scene.look()
    scene.pass_time(1.0)
    scene.send(0.5, 2.0)
    asked = scene.look(beyond)
    assert scene.said == ("invalid", "left_hand touches wall, in 0.70 s")
    assert len(asked) == 8 and scene.question() is None


def test_states_are_valid_again_only_by_a_whole_look(scene: Scene) -> None:
    scene.send(0.5, 2.0)
    scene.look(lambda _: "left_hand touches wall")
    scene.pass_time(SETTINGS.period_s)
    scene.answer(scene.question())
    assert scene.said[0] == "invalid"
    scene.look()
    assert scene.said[0] == "valid"


def test_a_question_that_is_not_answered_is_a_no_and_is_put_anew(scene: Scene) -> None:
    scene.look()
    scene.pass_time(SETTINGS.period_s)
    late = scene.question()
    scene.pass_time(SETTINGS.timeout_s)
    assert scene.question() is None and scene.said[0] == "valid"
    scene.pass_time(0.001)
    again = scene.question()
    assert scene.said == ("silent", f"{SERVICE} has not answered within 0.2 s")
    assert again.number != late.number
    scene.answer(late)
    scene.question()
    assert scene.said[0] == "silent", "the late answer is to another question"
    scene.answer(again)
    scene.question()
    assert scene.said[0] == "valid"


def test_a_service_that_nobody_offers_is_a_no(scene: Scene) -> None:
    assert scene.question(offered=False) is None
    assert scene.said == ("waiting", f"nobody offers {SERVICE}")
    scene.look()
    assert scene.question(offered=False) is None
    assert scene.said == ("silent", f"nobody offers {SERVICE}")
    scene.pass_time(SETTINGS.period_s)
    assert scene.look() and scene.said[0] == "valid"


def test_while_joint_states_are_silent_no_state_is_valid(scene: Scene, contract: object) -> None:
    scene.look()
    scene.ns += round(2 * contract.site.tolerances.silence_s * 1e9)
    assert scene.question() is None
    assert scene.said[0] == "waiting" and "joint states: silent for 1.00 s" in scene.said[1]


def test_a_new_trajectory_is_looked_at_at_once(scene: Scene) -> None:
    scene.look()
    assert scene.question() is None
    scene.send(0.5, 2.0)
    assert len(scene.look()) == STEPS + 1


def test_a_trajectory_that_comes_in_the_middle_of_a_look_counts_from_there_on(scene: Scene) -> None:
    joint = scene.joints.index(scene.controllers[0].joints[0])
    scene.send(0.5, 2.0)
    for _ in range(3):
        scene.answer(scene.question())
    scene.send(-0.5, 2.0)
    asked = [question.positions[joint] - scene.pose[joint] for question in scene.asked]
    rest, following = ([positions[joint] - scene.pose[joint] for positions in scene.look()] for _ in range(2))
    assert asked == sorted(asked) and asked[-1] > 0.04
    assert len(rest) == STEPS - 2 and max(rest) < 0
    assert len(following) == STEPS + 1 and following[0] == pytest.approx(0, abs=1e-9), "at once, from the present on"


def test_two_controllers_move_together(scene: Scene) -> None:
    scene.send(0.5, 2.0)
    scene.send(0.1, 1.0, controller=3)
    last = scene.look()[-1] - scene.pose
    assert last[scene.joints.index(scene.controllers[0].joints[0])] == pytest.approx(0.25, abs=0.01)
    assert last[scene.joints.index(scene.controllers[3].joints[0])] == pytest.approx(0.1)


def test_where_a_motion_has_ended_the_joints_are_where_they_are_measured(scene: Scene) -> None:
    scene.send(0.1, 0.5)
    scene.pass_time(0.6)
    scene.pose = scene.pose + 0.2  # something else moved it
    scene.feel()
    (asked,) = scene.look()
    np.testing.assert_array_equal(asked, scene.pose)


def test_a_clock_that_was_set_back_leaves_what_was_commanded_before_behind(scene: Scene) -> None:
    scene.send(0.1, 0.5)
    now_ns, monotonic_ns = scene.ns - 10_000_000_000, scene.ns
    question = scene.lookout.question(True, now_ns, monotonic_ns)
    np.testing.assert_array_equal(question.positions, scene.pose)


def test_what_no_controller_would_follow_is_told_to_who_heard_it(scene: Scene) -> None:
    with pytest.raises(Rejected, match="joint_set"):
        scene.hear(Received(["nobody"], [Point(0, [0.0], [0.0])]))
    assert len(scene.look()) == 1
