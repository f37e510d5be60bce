"""Judges: what counts as done, and progress that tells how far."""

import numpy as np
import pytest

from agibot_twin.layout import Layout
from agibot_twin.objects import BIN_CENTRE_M, TRAY
from agibot_twin.scene import TABLE_TOP_Z_M
from agibot_twin.tasks import (
    LIFT_M,
    PUSH_M,
    TOUCH_DISTANCE_M,
    TOUCH_DWELL_S,
    Judge,
    Situation,
    Task,
    handle_position,
    rotation,
)

CUBE = np.array([0.5, 0.1, TABLE_TOP_Z_M + 0.024, 1.0, 0.0, 0.0, 0.0])
TRAY_POSE = np.array([0.55, 0.0, TABLE_TOP_Z_M + 0.004, 1.0, 0.0, 0.0, 0.0])
AWAY = np.array([0.6, 0.2, TABLE_TOP_Z_M + 0.14])
RED_CUBE = Layout({"cube": "red"}, {"cube": CUBE})
WITH_TRAY = Layout({}, {TRAY: TRAY_POSE})


def at(time_s=0.0, left=AWAY, right=AWAY * [1, -1, 1], **poses):
    return Situation(time_s, {"left": np.asarray(left), "right": np.asarray(right)}, poses or {"cube": CUBE})


def moved(pose, **by):
    pose = pose.copy()
    for axis, distance in by.items():
        pose["xyz".index(axis)] += distance
    return pose


def test_a_touch_lasts_a_moment_and_needs_the_right_hand():
    judge = Judge(Task("touch", "cube", "red", "left"), RED_CUBE, at())
    near = CUBE[:3] + [0.0, 0.0, TOUCH_DISTANCE_M - 0.001]
    judge.watch(at(0.1, right=near))
    assert (judge.success, judge.progress) == (False, 0.0)
    judge.watch(at(0.2, left=near))
    judge.watch(at(0.3))  # only passing by
    judge.watch(at(0.4, left=near))
    judge.watch(at(0.5, left=near))
    assert not judge.success and judge.progress == pytest.approx(0.999)
    judge.watch(at(0.41 + TOUCH_DWELL_S, left=near))
    assert (judge.success, judge.progress) == (True, 1.0)


def test_a_tap_need_not_last():
    judge = Judge(Task("tap", "cube", "red", "left"), RED_CUBE, at())
    judge.watch(at(0.1, left=CUBE[:3]))
    assert judge.success


@pytest.mark.parametrize(("direction", "sign"), [("left", 1), ("right", -1)])
def test_a_push_counts_in_its_direction_only(direction, sign):
    judge = Judge(Task("push", "cube", "red", "left", direction), RED_CUBE, at())
    judge.watch(at(0.1, left=AWAY, cube=moved(CUBE, y=-sign * 0.2)))
    assert not judge.success
    judge.watch(at(0.2, left=CUBE[:3], cube=CUBE))
    assert judge.progress == pytest.approx(0.5)
    judge.watch(at(0.3, left=CUBE[:3] + [0, sign * PUSH_M, 0], cube=moved(CUBE, y=sign * PUSH_M)))
    assert judge.success


def test_an_object_is_placed_when_it_lies_in_the_bin_not_above_it():
    judge = Judge(Task("place", "cube", "red", "left"), RED_CUBE, at())
    over = moved(CUBE, x=BIN_CENTRE_M[0] - 0.5, y=BIN_CENTRE_M[1] - 0.1, z=0.1)
    judge.watch(at(0.1, left=over[:3], cube=over))
    assert not judge.success and judge.progress > 0.9
    judge.watch(at(0.2, left=over[:3], cube=moved(over, z=-0.1)))
    assert judge.success


def test_the_tray_is_lifted_level_and_both_hands_count():
    judge = Judge(Task("lift", TRAY), WITH_TRAY, at(tray=TRAY_POSE))
    left, right = (handle_position(TRAY_POSE, hand) for hand in ("left", "right"))
    judge.watch(at(0.1, left=left, tray=TRAY_POSE))
    assert judge.progress == pytest.approx(0.25)
    judge.watch(at(0.2, left=left, right=right, tray=TRAY_POSE))
    assert judge.progress == pytest.approx(0.5)
    tilted = moved(TRAY_POSE, z=LIFT_M)
    tilted[3:] = [np.cos(0.3), np.sin(0.3), 0, 0]  # 34 degrees
    judge.watch(at(0.3, left=left, right=right, tray=tilted))
    assert not judge.success
    judge.watch(at(0.4, left=left, right=right, tray=moved(TRAY_POSE, z=LIFT_M)))
    assert judge.success


def test_progress_never_falls():
    judge = Judge(Task("touch", "cube", "red", "left"), RED_CUBE, at())
    halfway = (AWAY + CUBE[:3]) / 2
    judge.watch(at(0.1, left=halfway))
    best = judge.progress
    judge.watch(at(0.2))
    assert 0.3 < judge.progress == best < 0.8


def test_a_task_about_something_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="about ball, on the table are \\['cube'\\]"):
        Judge(Task("touch", "ball", "red", "left"), RED_CUBE, at())


def test_rotation_turns_about_z():
    np.testing.assert_allclose(
        rotation(np.array([np.cos(np.pi / 4), 0, 0, np.sin(np.pi / 4)])) @ [1, 0, 0], [0, 1, 0], atol=1e-12
    )
