"""The twin's controller moves as a joint trajectory controller of ROS 2 Jazzy was measured to."""

import numpy as np
import pytest

from agibot_twin.trajectory_controller import (
    JointTarget,
    Trajectory,
    TrajectoryController,
    TrajectoryPoint,
    TrajectoryRefused,
    interpolate,
)

S = 1_000_000_000
CYCLE = S // 100
NOW = 1_000 * S


def point(at_s: float, positions, velocities=None, accelerations=None) -> TrajectoryPoint:
    values = [None if v is None else np.atleast_1d(np.array(v, float)) for v in (positions, velocities, accelerations)]
    return TrajectoryPoint(round(at_s * S), JointTarget(*values))


def controller(position: float = 0.0) -> TrajectoryController:
    return TrajectoryController("arm", ["a"], np.array([position]))


def trajectory(*points: TrajectoryPoint, stamp_s: float | None = None, joints=("a",)) -> Trajectory:
    return Trajectory(list(joints), list(points), 0 if stamp_s is None else NOW + round(stamp_s * S))


def position(follower: TrajectoryController, at_s: float) -> float:
    return float(follower.update(NOW + round(at_s * S)).positions[0])


def test_stamp_zero_starts_when_taken_and_moves_in_a_line_to_the_first_point() -> None:
    arm = controller(0.2)
    arm.receive(trajectory(point(1.0, 1.2), point(2.0, 1.2)), NOW)
    assert [position(arm, t) for t in (0.0, 0.5, 1.0, 3.0)] == pytest.approx([0.2, 0.7, 1.2, 1.2])


def test_stamp_zero_with_a_first_point_at_zero_jumps_in_one_cycle() -> None:
    arm = controller(0.0)
    arm.receive(trajectory(point(0.0, 1.0), point(1.0, 2.0)), NOW)
    assert [position(arm, t) for t in (0.0, 0.5)] == pytest.approx([1.0, 1.5])


def test_a_new_trajectory_drops_the_old_one_whole_even_if_it_starts_later() -> None:
    arm = controller(0.0)
    arm.receive(trajectory(point(0.0, 0.0), point(1.0, 1.0), point(2.0, 0.0)), NOW)
    assert position(arm, 0.0) == 0.0
    assert position(arm, 0.5) == pytest.approx(0.5)
    arm.receive(trajectory(point(0.0, 0.5), point(1.0, 0.5), stamp_s=1.5), NOW + S // 2)
    assert [position(arm, t) for t in (0.5, 1.0, 1.5, 2.5)] == pytest.approx([0.5] * 4)  # it sits there for a second


def test_a_future_stamp_sets_out_at_once_and_arrives_at_stamp_plus_time_from_start() -> None:
    arm = controller(0.0)
    arm.receive(trajectory(point(1.0, 2.0), stamp_s=1.0), NOW)
    assert [position(arm, t) for t in (0.0, 1.0, 2.0)] == pytest.approx([0.0, 1.0, 2.0])


def test_a_past_stamp_enters_the_segment_that_contains_now_without_a_blend() -> None:
    arm = controller(0.0)
    arm.receive(trajectory(point(0.0, 0.0), point(1.0, 1.0), stamp_s=-0.5), NOW)
    assert position(arm, 0.0) == pytest.approx(0.5)  # a step of half a radian in one cycle
    assert position(arm, 0.25) == pytest.approx(0.75)


def test_replacement_starts_from_the_desired_state_with_its_velocity() -> None:
    arm = controller(0.0)
    ramp = [point(t, t, 1.0) for t in (0.0, 1.0)] + [point(2.0, 1.5, 0.0)]
    arm.receive(trajectory(*ramp), NOW)
    position(arm, 0.0)
    position(arm, 0.5)
    arm.receive(trajectory(point(0.1, 0.6, 1.0), point(1.0, 1.0, 0.0)), NOW)
    velocities = [float(arm.update(NOW + S // 2 + k * CYCLE).velocities[0]) for k in range(11)]
    assert velocities == pytest.approx([1.0] * 11)  # no dip at the seam


def test_positions_make_lines_velocities_cubics_accelerations_quintics() -> None:
    def middle(begin: JointTarget, end: JointTarget) -> tuple[float, float]:
        state = interpolate(begin, end, 1.0, 0.25)
        return float(state.positions[0]), float(state.velocities[0])

    def target(*values: float) -> JointTarget:
        return JointTarget(*(np.array([v]) for v in values))

    assert middle(target(0.0), target(1.0)) == pytest.approx((0.25, 1.0))
    assert middle(target(0.0, 0.0), target(1.0, 0.0)) == pytest.approx((3 / 16 - 2 / 64, 6 / 4 - 6 / 16))
    s = 0.25
    assert middle(target(0.0, 0.0, 0.0), target(1.0, 0.0, 0.0)) == pytest.approx(
        (10 * s**3 - 15 * s**4 + 6 * s**5, 30 * s**2 - 60 * s**3 + 30 * s**4)
    )
    # With derivatives at both ends, against t^3 and t^5, which the polynomials must reproduce.
    assert middle(target(0.0, 0.0), target(1.0, 3.0)) == pytest.approx((s**3, 3 * s**2))
    assert middle(target(0.0, 0.0, 0.0), target(1.0, 5.0, 20.0)) == pytest.approx((s**5, 5 * s**4))
    # One end without velocities makes the segment a line.
    assert middle(target(0.0, 0.0), target(1.0)) == pytest.approx((0.25, 1.0))


def test_joints_may_come_in_any_order() -> None:
    arm = TrajectoryController("arm", ["a", "b"], np.zeros(2))
    arm.receive(trajectory(point(1.0, [2.0, 1.0], [0.0, 0.0]), joints=("b", "a")), NOW)
    assert arm.update(NOW).positions.tolist() == [0.0, 0.0]
    assert arm.update(NOW + S).positions.tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("refused", "reason"),
    [
        (trajectory(point(0.0, 1.0), point(1.0, 2.0), stamp_s=-1.5), "ended 0.500 s ago"),
        (trajectory(point(1.0, 1.0, 0.3)), "a has velocity 0.3000"),
        (trajectory(point(1.0, []), joints=()), "missing ['a']"),
        (trajectory(point(1.0, [1.0, 1.0]), joints=("a", "x")), "unknown ['x']"),
        (trajectory(point(1.0, [1.0, 1.0]), joints=("a", "a")), "2 named, 1 expected"),
        (trajectory(point(1.0, 1.0), point(1.0, 2.0)), "does not increase"),
        (trajectory(), "without points"),
        (trajectory(point(1.0, [1.0, 2.0])), "2 positions for 1 joints"),
        (trajectory(point(1.0, float("nan"))), "positions of a is not finite"),
    ],
)
def test_refusals_name_the_reason_and_leave_the_motion_alone(refused: Trajectory, reason: str) -> None:
    arm = controller(0.0)
    arm.receive(trajectory(point(1.0, 1.0)), NOW)
    position(arm, 0.0)
    with pytest.raises(TrajectoryRefused) as refusal:
        arm.receive(refused, NOW)
    assert reason in str(refusal.value)
    assert position(arm, 0.5) == pytest.approx(0.5)


def test_a_subset_of_the_joints_is_refused() -> None:
    arm = TrajectoryController("arm", ["a", "b"], np.zeros(2))
    with pytest.raises(TrajectoryRefused, match=r"missing \['b'\]"):
        arm.receive(trajectory(point(1.0, 1.0)), NOW)


def test_an_empty_message_stops_where_the_joint_is() -> None:
    arm = controller(0.0)
    arm.receive(trajectory(point(1.0, 1.0)), NOW)
    position(arm, 0.0)
    position(arm, 0.5)
    arm.receive(Trajectory([], []), NOW + S // 2)
    assert [position(arm, t) for t in (0.51, 2.0)] == pytest.approx([0.5, 0.5])
    assert arm.desired.velocities.tolist() == [0.0]
