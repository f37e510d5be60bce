"""The G1's shape as the runtime's limits ask for it, on the real model."""

from pathlib import Path

import numpy as np
import pytest

from agibot_bringup.description import load_home
from agibot_twin.arms import Arms
from agibot_twin.episodes import sample_episode
from agibot_twin.geometry import TwinGeometry
from agibot_twin.robot_model import DRIVEN_JOINTS
from agibot_twin.suite import TwinSuite
from dreamzero_policy.runtime.chunk import Verdict
from dreamzero_policy.runtime.contract import Box, Contract, load_contract
from dreamzero_policy.runtime.geometry import checks_of, installed
from dreamzero_policy.runtime.limits import Limits
from dreamzero_policy.runtime.plan import Plan, Rows, smootherstep
from dreamzero_policy.runtime.splice import way_into

CONTRACT = load_contract(Path(__file__).resolve().parents[3] / "config" / "agibot_g1.yaml")
JOINTS = CONTRACT.model.commanded_joints
HOME = np.array([load_home()[joint] for joint in JOINTS])
STEP_NS = 33_333_333


@pytest.fixture(scope="module")
def geometry() -> TwinGeometry:
    return TwinGeometry(JOINTS)


@pytest.fixture(scope="module")
def arms() -> Arms:
    return Arms()


def with_site(**asked: object) -> Contract:
    return CONTRACT.model_copy(update={"site": CONTRACT.site.model_copy(update=asked)})


def towards(arms: Arms, points: dict[str, np.ndarray]) -> np.ndarray:
    """Joint rows [60, J] from home that bring hands to points in a line, from rest to rest."""
    begin = {hand: arms.hand_position(hand, arms.home) for hand in points}
    share = smootherstep(np.linspace(0, 1, 60))[:, None]
    paths = {hand: begin[hand] + share * (point - begin[hand]) for hand, point in points.items()}
    return arms.follow(arms.home, paths, share[:, 0])[:, [DRIVEN_JOINTS.index(joint) for joint in JOINTS]]


def judged(limits: Limits, rows: np.ndarray):
    """What the limits say to a motion through rows, at half their speed."""
    return way_into(Plan.rest(rows[0], 0), Rows(rows, 0, 2 * STEP_NS), (0.3,), limits).judgement


def test_hands_are_where_the_experts_kinematics_has_them(geometry: TwinGeometry, arms: Arms) -> None:
    poses = HOME + np.random.default_rng(0).uniform(-0.2, 0.2, (5, len(JOINTS)))
    in_order = poses[:, [JOINTS.index(joint) for joint in DRIVEN_JOINTS]]
    for hand in geometry.hands:
        expected = [arms.hand_position(hand, joints) for joints in in_order]
        np.testing.assert_allclose(geometry.hand_positions(hand, poses), expected, atol=1e-9)


def test_at_home_nothing_is_near_and_hands_that_meet_are_named(geometry: TwinGeometry, arms: Arms) -> None:
    (distance,), (names,) = geometry.self_distances(HOME[None], 0.05)
    assert (distance, names) == (0.05, "")
    meeting = towards(arms, {"left": np.array([0.55, 0.0, 0.85]), "right": np.array([0.55, 0.0, 0.85])})
    distances, names = geometry.self_distances(meeting, 0.05)
    assert distances[0] == 0.05 and distances[-1] < 0
    assert "_l_" in names[-1] and "_r_" in names[-1]
    apart = distances[: np.argmax(distances < 0)]
    assert len(apart) > 30 and (np.diff(apart) <= 0).all(), "the nearer the hands, the smaller"


def test_a_motion_in_which_the_hands_meet_is_rejected_before_it_begins(geometry: TwinGeometry, arms: Arms) -> None:
    meeting = towards(arms, {"left": np.array([0.55, 0.0, 0.85]), "right": np.array([0.55, 0.0, 0.85])})
    assert judged(Limits(JOINTS, CONTRACT.site.limits), meeting), "the joints' own limits allow it"
    checks = checks_of(with_site(self_clearance_m=0.02), geometry)
    judgement = judged(Limits(JOINTS, CONTRACT.site.limits, checks), meeting)
    assert judgement.verdict is Verdict.REJECTED_SELF_COLLISION
    assert "_l_" in judgement.reason and "_r_" in judgement.reason and "clearance 0.0200" in judgement.reason


def test_a_hand_that_leaves_its_box_is_rejected_with_the_side(geometry: TwinGeometry, arms: Arms) -> None:
    box = Box(lower=(0.3, -0.1, 0.66), upper=(0.9, 0.7, 1.2))
    limits = Limits(JOINTS, CONTRACT.site.limits, checks_of(with_site(workspace={"left": box}), geometry))
    assert judged(limits, towards(arms, {"left": np.array([0.60, 0.20, 0.72])}))
    judgement = judged(limits, towards(arms, {"left": np.array([0.60, 0.20, 0.62])}))
    assert judgement.verdict is Verdict.REJECTED_WORKSPACE
    assert judgement.reason.startswith("hand left reaches z 0.6") and "workspace 0.660 to 1.200" in judgement.reason


@pytest.mark.parametrize("family", ["touch", "place"])
def test_demonstrations_pass_both_checks(geometry: TwinGeometry, family: str) -> None:
    table = Box(lower=(0.2, -0.8, 0.65), upper=(1.0, 0.8, 1.4))
    asked = with_site(self_clearance_m=0.02, workspace={"left": table, "right": table})
    seed = next(seed for seed in range(50) if sample_episode("seen", seed).task.family == family)
    suite = TwinSuite()
    suite.reset("seen", seed)
    joints, commands = suite.demonstration(CONTRACT)
    rows = commands[:, [joints.index(joint) for joint in JOINTS]]
    assert all(check(rows) for check in checks_of(asked, geometry))
    suite.close()


def test_the_geometry_is_found_by_the_embodiments_name() -> None:
    assert isinstance(installed(CONTRACT), TwinGeometry)


def test_a_joint_that_the_robot_has_not_is_named() -> None:
    with pytest.raises(ValueError, match="'elbow'"):
        TwinGeometry(["elbow"])
