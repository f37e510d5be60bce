"""The list of links that a planner need not check is what the shapes say."""

from pathlib import Path

import pytest

from agibot_bringup.description import load_home, share_folder
from agibot_twin.collision_pairs import FILE, MARGIN_M, Shapes, document, nearest_m, overlap_shares, reasons
from agibot_twin.robot_model import DRIVEN_JOINTS


@pytest.fixture(scope="module")
def shapes() -> Shapes:
    return Shapes()


@pytest.fixture(scope="module")
def found(shapes: Shapes) -> dict[tuple[str, str], str]:
    return reasons(shapes)


def test_the_file_is_what_is_derived_from_the_description(found: dict[tuple[str, str], str]) -> None:
    written = Path(share_folder() / FILE).read_text()
    assert written == document(found), "out of date: python -m agibot_twin.collision_pairs"


def test_what_is_said_to_touch_never_touches_in_none_of_other_random_poses(
    shapes: Shapes, found: dict[tuple[str, str], str]
) -> None:
    never = [pair for pair, reason in found.items() if reason == "Never"]
    assert len(never) > 50
    shares = overlap_shares(shapes, never, poses=500, seed=2)
    assert {pair for pair, share in shares.items() if share > 0} == set()


@pytest.mark.parametrize(
    "pair",
    [
        ("gripper_l_base_link", "gripper_r_base_link"),  # the hands meet
        ("arm_l_link4", "body_link1"),  # an elbow against the lift
        ("arm_l_link6", "head_link2"),  # a wrist against the head
        ("gripper_l_inner_link4", "gripper_l_outer_link4"),  # the pads of one hand
    ],
)
def test_what_can_touch_stays_checked(shapes: Shapes, found: dict[tuple[str, str], str], pair: tuple[str, str]) -> None:
    assert pair not in found
    assert nearest_m(shapes, pair) < MARGIN_M


def test_at_home_only_what_need_not_be_checked_overlaps(shapes: Shapes, found: dict[tuple[str, str], str]) -> None:
    shapes.pose(shapes.home)
    overlapping = {
        (first, second)
        for index, first in enumerate(shapes.links)
        for second in shapes.links[index + 1 :]
        if shapes.distance((first, second)) < 0
    }
    assert overlapping and overlapping <= set(found)


def test_joints_in_between_are_those_that_move_one_link_against_the_other(shapes: Shapes) -> None:
    between = [DRIVEN_JOINTS[column] for column in shapes.joints_between(("arm_l_link2", "arm_r_link1"))]
    assert between == ["idx21_arm_l_joint1", "idx22_arm_l_joint2", "idx61_arm_r_joint1"]
    assert list(load_home()) == list(DRIVEN_JOINTS)
