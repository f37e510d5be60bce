"""One table says what every number of the robot means; each row is checked against the figures it was read from."""

import math
from dataclasses import replace

import pytest

from agibot_bringup.bridge.units import (
    ARMS,
    JOINTS,
    LEFT_GRIPPER,
    LIFT,
    PITCH,
    RIGHT_GRIPPER,
    WAIST_PITCH,
    YAW,
    Entry,
    Group,
    Table,
    Units,
    unit_table,
)
from agibot_bringup.description import load_home


def entry(table: Table, joint: str) -> Entry:
    return next(entry for entries in table.values() for entry in entries if entry.joint == joint)


def test_vectors_have_the_robots_order_and_the_waist_is_pitch_then_lift(table: Table) -> None:
    order = {group: [entry.joint for entry in entries] for group, entries in table.items()}
    assert order[Group.ARMS][0] == "idx21_arm_l_joint1" and order[Group.ARMS][7] == "idx61_arm_r_joint1"
    assert order[Group.ARMS] == list(ARMS) and len(ARMS) == 14
    assert order[Group.HEAD] == ["idx11_head_joint1", "idx12_head_joint2"] == [YAW, PITCH]
    assert order[Group.WAIST] == ["idx02_body_joint2", "idx01_body_joint1"] == [WAIST_PITCH, LIFT]
    assert order[Group.LEFT_GRIPPER] == [LEFT_GRIPPER] and order[Group.RIGHT_GRIPPER] == [RIGHT_GRIPPER]


def test_every_driven_joint_has_one_row(table: Table) -> None:
    assert sorted(e.joint for entries in table.values() for e in entries) == sorted(JOINTS) == sorted(load_home())


# joint, rad or m, what the robot reports, what it is told. Topics: lift in m, gripper 35 … 120 reported, 0 … 120 told
TOPICS = [
    ("idx21_arm_l_joint1", -1.2, -1.2, -1.2),
    ("idx67_arm_r_joint7", 0.3, 0.3, 0.3),
    (YAW, 0.25, 0.25, 0.25),
    (WAIST_PITCH, 0.4, 0.4, 0.4),
    (LIFT, 0.41, 0.41, 0.41),
    (LEFT_GRIPPER, 0.785, 35.0, 0.0),  # open
    (LEFT_GRIPPER, 0.0, 120.0, 120.0),  # closed: the larger number
    (RIGHT_GRIPPER, 0.3925, 77.5, 60.0),  # half way
]
SDK = [(LIFT, 0.41, 41.0, 41.0), (LEFT_GRIPPER, 0.785, 35.0, 0.0), (LEFT_GRIPPER, 0.0, 120.0, 1.0)]


@pytest.mark.parametrize(("joint", "value", "reported", "told"), TOPICS)
def test_a_row_of_the_topics_converts_both_ways(
    table: Table, joint: str, value: float, reported: float, told: float
) -> None:
    assert entry(table, joint).feedback.value(reported) == pytest.approx(value, abs=1e-12)
    assert entry(table, joint).command.raw(value) == pytest.approx(told, abs=1e-9)


@pytest.mark.parametrize(("joint", "value", "reported", "told"), SDK)
def test_a_row_of_the_sdk_converts_both_ways(
    units: Units, joint: str, value: float, reported: float, told: float
) -> None:
    table = unit_table(replace(units, lift_feedback="cm", lift_command="cm", gripper_command=(0.0, 1.0)))
    assert entry(table, joint).feedback.value(reported) == pytest.approx(value, abs=1e-12)
    assert entry(table, joint).command.raw(value) == pytest.approx(told, abs=1e-12)


def test_speeds_have_the_units_and_the_polarity_of_positions(units: Units) -> None:
    table = unit_table(replace(units, lift_feedback="cm"))
    assert entry(table, LIFT).feedback.rate(5.0) == pytest.approx(0.05)
    assert entry(table, LEFT_GRIPPER).feedback.rate(85.0) == pytest.approx(-0.785)  # closing is towards 0 rad


def test_a_reversed_joint_changes_its_sign_and_a_reversed_gripper_its_ends(units: Units) -> None:
    table = unit_table(replace(units, reversed_joints=("idx24_arm_l_joint4", LEFT_GRIPPER)))
    assert entry(table, "idx24_arm_l_joint4").command.raw(0.5) == -0.5
    assert entry(table, "idx24_arm_l_joint4").feedback.value(-0.5) == 0.5
    assert entry(table, LEFT_GRIPPER).feedback.value(35.0) == pytest.approx(0.0)
    assert entry(table, RIGHT_GRIPPER).feedback.value(35.0) == pytest.approx(0.785)


def test_a_lift_in_another_unit_than_declared_is_seen(units: Units, table: Table) -> None:
    in_m, in_cm = entry(table, LIFT), entry(unit_table(replace(units, lift_feedback="cm")), LIFT)
    assert in_m.doubt(0.41, 0.0, 0.55, 0.01) == in_cm.doubt(41.0, 0.0, 0.55, 0.01) == ""
    assert "reads 41" in in_m.doubt(41.0, 0.0, 0.55, 0.01) and "would fit in cm" in in_m.doubt(41.0, 0.0, 0.55, 0.01)
    assert "0.0041 m if that is in cm, 0.41 m if it is in m" in in_cm.doubt(0.41, 0.0, 0.55, 0.01)


def test_degrees_in_place_of_radians_are_seen(table: Table) -> None:
    doubt = entry(table, "idx24_arm_l_joint4").doubt(57.0, -1.48, 1.48, 0.05)
    assert "its range is -1.48 … 1.48" in doubt and "would fit in deg" in doubt


def test_a_gripper_that_reports_what_it_cannot_is_seen(table: Table) -> None:
    assert entry(table, LEFT_GRIPPER).doubt(0.0, 0.0, 0.785, 0.05).startswith(f"{LEFT_GRIPPER} reads 0")
    assert entry(table, LEFT_GRIPPER).doubt(33.0, 0.0, 0.785, 0.05) == ""


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"lift_command": "inch"}, "idx01_body_joint1: command unit is 'inch', expected one of m, cm, mm"),
        ({"head": "m"}, "idx11_head_joint1: feedback unit is 'm', expected one of rad, deg"),
        ({"gripper_command": (1.0, 1.0)}, "open at 1 cannot be closed at 1"),
        ({"reversed_joints": ("left_arm_joint1",)}, r"reversed_joints names \['left_arm_joint1'\]"),
    ],
)
def test_a_declaration_that_cannot_be_is_refused(units: Units, change: dict, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        unit_table(replace(units, **change))


def test_degrees_are_degrees(units: Units) -> None:
    assert entry(unit_table(replace(units, head="deg")), YAW).command.raw(math.pi / 2) == pytest.approx(90.0)
