"""A message is a trajectory for these controllers, or is rejected with a number and a text that has both values."""

from dataclasses import replace

import pytest

from agibot_bringup.safety_gate.trajectory import Bounds, Point, Reason, Received, Rejected, wanted
from dreamzero_policy.runtime.chunk import Verdict
from dreamzero_policy.runtime.contract import Controller
from dreamzero_policy.runtime.observation import NS_PER_S

NOW_NS = 1_000 * NS_PER_S
CONTROLLERS = (Controller(name="arm", joints=("a", "b")), Controller(name="hand", joints=("c",)))
BOUNDS = Bounds(max_stamp_age_s=0.2, max_stamp_ahead_s=0.5, max_trajectory_s=10.0)
GOOD = Received(["b", "a"], [Point(100_000_000, [0.2, 0.1], [0.02, 0.01]), Point(200_000_000, [0.2, 0.1], [0.0, 0.0])])
NAN = float("nan")


def point(index: int, **changes: object) -> Received:
    """The good one with one point changed."""
    points = list(GOOD.points)
    points[index] = replace(points[index], **changes)
    return replace(GOOD, points=points)


def stamped(seconds: float) -> Received:
    return replace(GOOD, stamp_ns=NOW_NS + round(seconds * NS_PER_S))


def test_joints_may_come_in_any_order_and_go_out_in_the_controllers() -> None:
    ((controller, plan),) = wanted(GOOD, CONTROLLERS, BOUNDS, NOW_NS)
    assert controller.name == "arm"
    assert plan.positions.tolist() == [[0.1, 0.2], [0.1, 0.2]] and plan.velocities[0].tolist() == [0.01, 0.02]
    assert plan.knots_ns.tolist() == [NOW_NS + 100_000_000, NOW_NS + 200_000_000]


def test_points_count_from_the_stamp_if_there_is_one() -> None:
    ((_, plan),) = wanted(stamped(-0.1), CONTROLLERS, BOUNDS, NOW_NS)
    assert plan.knots_ns[0] == NOW_NS


@pytest.mark.parametrize(
    ("received", "reason", "text"),
    [
        (replace(GOOD, joints=["a", "x"]), Reason.JOINT_SET, "unknown ['x'], missing ['b']"),
        (replace(GOOD, joints=["a", "a"]), Reason.JOINT_SET, "repeated ['a']"),
        (replace(GOOD, joints=["a", "c"]), Reason.JOINT_SET, "missing ['b']"),
        (replace(GOOD, joints=[]), Reason.JOINT_SET, "0 joints named"),
        (replace(GOOD, points=[]), Reason.NO_POINTS, "no points"),
        (point(1, after_ns=100_000_000), Reason.TIMES, "of point 1 is 0.100000 s, of the one before it 0.100000 s"),
        (point(1, after_ns=100_000_500), Reason.TIMES, "by 0.001 s at least"),
        (point(0, after_ns=-1), Reason.TIMES, "of point 0 is -0.000000 s"),
        (stamped(-0.3), Reason.STAMP, "the stamp is -0.300 s from now"),
        (stamped(0.6), Reason.STAMP, "-0.2 to +0.5 s"),
        (replace(GOOD, stamp_ns=1), Reason.STAMP, "-1000.000 s"),
        (point(1, after_ns=11 * NS_PER_S), Reason.DURATION, "lasts 11.00 s, max_trajectory_s is 10"),
        (point(0, positions=[0.1]), Reason.LENGTHS, "point 0 has 1 positions for 2 joints"),
        (point(1, velocities=[]), Reason.LENGTHS, "point 1 has 0 velocities for 2 joints: a controller would step"),
        (point(1, accelerations=[0.0] * 3), Reason.LENGTHS, "3 accelerations"),
        (point(0, positions=[0.1, NAN]), Reason.NOT_FINITE, "positions of a is nan in point 0"),
        (point(1, velocities=[float("inf"), 0.0]), Reason.NOT_FINITE, "velocities of b is inf in point 1"),
        (point(0, effort=[NAN, NAN]), Reason.NOT_FINITE, "effort of b is nan"),
        (point(1, velocities=[0.0, 0.3]), Reason.ENDS_MOVING, "a has velocity 0.3000"),
    ],
)
def test_whatever_is_no_such_trajectory_is_rejected_by_number_and_in_words(
    received: Received, reason: Reason, text: str
) -> None:
    with pytest.raises(Rejected) as rejection:
        wanted(received, CONTROLLERS, BOUNDS, NOW_NS)
    assert rejection.value.reason is reason and text in rejection.value.text


def test_a_verdict_of_the_limits_keeps_its_number() -> None:
    for verdict in Verdict:
        if verdict is not Verdict.ACCEPTED:
            assert Reason[verdict.name.removeprefix("REJECTED_")].value == verdict.value
