"""The way home keeps the limits, is straight, and can be broken off."""

from pathlib import Path

import numpy as np
import pytest

from agibot_bringup.description import load_home
from agibot_bringup.go_home.motion import BRAKE_FIRST_NS, FIRST_NS, NoWay, braked, legs
from dreamzero_policy.runtime.contract import Contract, load_contract
from dreamzero_policy.runtime.geometry import KeepsClearOfItself, installed
from dreamzero_policy.runtime.limits import Limits
from dreamzero_policy.runtime.observation import NS_PER_S


@pytest.fixture(scope="module")
def contract() -> Contract:
    return load_contract(Path(__file__).parents[4] / "config" / "agibot_g1.yaml")


@pytest.fixture(scope="module")
def limits(contract: Contract) -> Limits:
    return Limits(contract.model.commanded_joints, contract.site.limits)


@pytest.fixture(scope="module")
def home(contract: Contract) -> np.ndarray:
    return np.array([load_home()[joint] for joint in contract.model.commanded_joints])


def anywhere(limits: Limits, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(limits.lower, limits.upper)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("share", [0.1, 0.3, 1.0])
def test_from_anywhere_legs_lead_home_inside_the_limits(
    limits: Limits, home: np.ndarray, seed: int, share: float
) -> None:
    start = anywhere(limits, seed)
    way = legs(start, home, limits, share, 10.0)
    at = start
    for leg in way:
        assert leg.positions[0] == pytest.approx(at) and not leg.velocities[[0, -1]].any()
        judgement = limits.judge(leg)
        assert judgement, judgement.reason
        assert leg.end_ns <= 10 * NS_PER_S and leg.knots_ns[1] == FIRST_NS
        at = leg.positions[-1]
    assert at == pytest.approx(home, abs=1e-9)


def test_all_joints_are_the_same_share_of_their_way_farther(limits: Limits, home: np.ndarray) -> None:
    start = anywhere(limits, 7)
    for leg in legs(start, home, limits, 0.3, 10.0):
        shares = (leg.positions - start) / (home - start)
        assert np.ptp(shares, axis=1) == pytest.approx(np.zeros(len(shares)), abs=1e-9)


def test_half_the_speed_takes_about_twice_as_long(limits: Limits, home: np.ndarray) -> None:
    (fast,), (slow,) = (legs(anywhere(limits, 3), home, limits, share, 600.0) for share in (1.0, 0.5))
    assert (slow.end_ns - FIRST_NS) / (fast.end_ns - FIRST_NS) == pytest.approx(2.0, rel=0.01)


def test_who_is_at_home_goes_nowhere(limits: Limits, home: np.ndarray) -> None:
    assert legs(home + 1e-5, home, limits, 0.3, 10.0) == []


def test_a_way_on_which_the_robot_meets_itself_is_refused(contract: Contract, home: np.ndarray) -> None:
    joints = contract.model.commanded_joints
    limits = Limits(joints, contract.site.limits, [KeepsClearOfItself(installed(contract), 0.01)])
    behind_the_head = home.copy()
    for joint, value in {"idx21_arm_l_joint1": 0.0, "idx22_arm_l_joint2": -2.0}.items():
        behind_the_head[joints.index(joint)] = value
    with pytest.raises(NoWay, match="come within"):
        legs(home, behind_the_head, limits, 0.3, 10.0)
    assert legs(0.98 * home, home, limits, 0.3, 10.0)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_a_leg_that_is_broken_off_comes_to_rest_sooner_and_inside_the_limits(
    limits: Limits, home: np.ndarray, share: float
) -> None:
    (leg,) = legs(anywhere(limits, 11), home, limits, 0.5, 600.0)
    now_ns = round(share * leg.end_ns)
    rest = braked(leg, limits, now_ns)
    assert rest is not None and rest.end_ns < leg.end_ns and not rest.velocities[-1].any()
    first_ns = now_ns + BRAKE_FIRST_NS
    position, velocity = leg.sample([first_ns])
    assert rest.knots_ns[0] == first_ns
    assert rest.positions[0] == pytest.approx(position[0]) and rest.velocities[0] == pytest.approx(velocity[0])
    assert limits.judge(rest)


def test_a_leg_that_is_as_good_as_over_is_not_broken_off(limits: Limits, home: np.ndarray) -> None:
    (leg,) = legs(anywhere(limits, 11), home, limits, 0.5, 600.0)
    assert braked(leg, limits, leg.end_ns - BRAKE_FIRST_NS // 2) is None
