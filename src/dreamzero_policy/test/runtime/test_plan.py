"""Laws of the plan: continuous at seams, inside the limits or refused, at rest in the end."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.interpolate import CubicSpline

from dreamzero_policy.runtime.chunk import Verdict, averaged, smoothed
from dreamzero_policy.runtime.contract import JointLimits
from dreamzero_policy.runtime.limits import CONTROL_NS, Limits
from dreamzero_policy.runtime.observation import NS_PER_S
from dreamzero_policy.runtime.plan import Plan, Rows, Seam, seam, smootherstep, spline_velocities

STEP_NS = NS_PER_S // 30
JOINTS = ("a", "b")
LIMIT = JointLimits(lower=-1.0, upper=1.0, velocity=3.0, acceleration=6.0, jerk=240.0, step=0.2)
LIMITS = Limits(JOINTS, dict.fromkeys(JOINTS, LIMIT))
BEGIN_NS = 50 * NS_PER_S


def sine(amplitude: float, phase: float = 0.0) -> np.ndarray:
    """One slow wave over a chunk of 24 rows, beginning at its phase."""
    t = np.arange(24) / 24
    return amplitude * np.stack([np.sin(2 * t + phase) - np.sin(phase), np.cos(2 * t + phase) - np.cos(phase)], 1)


def faded(plan: Plan, rows: np.ndarray, start_ns: int, blend_s: float) -> Plan:
    """The plan cross-faded into rows, still moving at the end."""
    (result,) = plan.cross_fades(Rows(rows, start_ns, STEP_NS), (blend_s,))
    return result


def executed(plan: Plan, hz: int = 1000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Position, and finite differences of it, as an observer of the joint would measure them."""
    instants = np.arange(plan.knots_ns[0], plan.end_ns, NS_PER_S // hz)
    positions, _ = plan.sample(instants)
    velocities = np.diff(positions, axis=0) * hz
    return positions, velocities, np.diff(velocities, axis=0) * hz


def test_a_plan_at_rest_stays_there() -> None:
    plan = Plan.rest(np.array([0.1, 0.2]), BEGIN_NS)
    positions, velocities = plan.sample([BEGIN_NS - 5, BEGIN_NS, BEGIN_NS + NS_PER_S])
    assert (positions == [0.1, 0.2]).all() and (velocities == 0).all()


@given(st.floats(0.02, 0.15), st.floats(0, 6), st.floats(0, 0.7))
@settings(deadline=None)
def test_position_and_velocity_are_continuous_at_the_seam(amplitude: float, phase: float, when_s: float) -> None:
    first = faded(Plan.rest(np.zeros(2), BEGIN_NS), sine(amplitude), BEGIN_NS, 0.2).with_tail(LIMITS.by_joint, STEP_NS)
    start_ns = BEGIN_NS + round(when_s * NS_PER_S)
    second = faded(first, sine(amplitude, phase), start_ns, 0.2)
    just = 1000  # ns
    before, velocity_before = second.sample([start_ns - just])
    after, velocity_after = second.sample([start_ns + just])
    np.testing.assert_allclose(after, before, atol=1e-5)
    np.testing.assert_allclose(velocity_after, velocity_before, atol=1e-3)
    np.testing.assert_allclose(second.sample([start_ns])[0], first.sample([start_ns])[0], atol=1e-9)


def test_after_the_cross_fade_the_rows_are_executed_exactly() -> None:
    rows = sine(0.1, 0.5)
    plan = faded(Plan.rest(np.zeros(2), BEGIN_NS), rows, BEGIN_NS, 0.2)
    late = np.arange(7, 24)
    np.testing.assert_allclose(plan.sample(BEGIN_NS + late * STEP_NS)[0], rows[late], atol=1e-12)


@given(arrays(np.float64, 2, elements=st.floats(-1.5, 1.5)))
@settings(deadline=None)
def test_the_tail_comes_to_rest_inside_the_limits(velocity: np.ndarray) -> None:
    t = np.arange(24)[:, None] / 30
    moving = Plan(BEGIN_NS + STEP_NS * np.arange(24), 0.3 * velocity * t, np.tile(0.3 * velocity, (24, 1)))
    plan = moving.with_tail(LIMITS.by_joint, STEP_NS)
    assert (plan.velocities[-1] == 0).all()
    assert LIMITS.judge(plan)
    assert (plan.end_ns - moving.end_ns) / NS_PER_S <= 0.3 * np.abs(velocity).max() / (0.9 * 6.0) + 0.9 * 6.0 / (
        0.5 * 240.0
    ) + 0.04


@given(st.floats(0.0, 1.2))
@settings(deadline=None)
def test_cutting_a_plan_does_not_change_what_follows(when_s: float) -> None:
    plan = faded(Plan.rest(np.zeros(2), BEGIN_NS), sine(0.1), BEGIN_NS, 0.2).with_tail(LIMITS.by_joint, STEP_NS)
    cut = plan.after(BEGIN_NS + round(when_s * NS_PER_S))
    instants = np.arange(cut.knots_ns[0], plan.end_ns + NS_PER_S // 2, 7_000_000)
    np.testing.assert_allclose(cut.sample(instants)[0], plan.sample(instants)[0], atol=1e-5)


@given(arrays(np.float64, (24, 2), elements=st.floats(-4, 4) | st.just(np.nan) | st.just(np.inf)), st.floats(0.02, 3.0))
@settings(max_examples=1000, deadline=None)
def test_no_chunk_whatever_makes_a_plan_outside_the_limits(rows: np.ndarray, scale: float) -> None:
    """Scaled so that some pass: what is accepted is then measured from outside, by differences of positions."""
    rest = Plan.rest(np.zeros(2), BEGIN_NS)
    with np.errstate(invalid="ignore"):
        rows = np.cumsum(rows, 0) * scale / 600
    if not LIMITS.judge_rows(rows, np.zeros(2)):
        return
    plan = faded(rest, rows, BEGIN_NS, 0.2)
    if not LIMITS.judge(plan):
        return
    plan = plan.with_tail(LIMITS.by_joint, STEP_NS)
    if not LIMITS.judge(plan):
        return
    positions, velocities, accelerations = executed(plan)
    assert np.abs(positions).max() <= 1.0 + 1e-9
    assert np.abs(velocities).max() <= 3.0 + 1e-6
    assert np.abs(accelerations).max() <= 6.0 + 1e-3


def test_a_rejection_names_joint_value_and_limit() -> None:
    rows = np.zeros((24, 2))
    assert LIMITS.judge_rows(np.zeros((24, 3)), np.zeros(2)).verdict is Verdict.REJECTED_JOINT_SET
    rows[5, 1] = np.nan
    judgement = LIMITS.judge_rows(rows, np.zeros(2))
    assert judgement.verdict is Verdict.REJECTED_NOT_FINITE and "b is nan in row 5" in judgement.reason
    judgement = LIMITS.judge_rows(np.full((24, 2), 0.3), np.zeros(2))
    assert (
        judgement.verdict is Verdict.REJECTED_STEP
        and judgement.reason == "a first row differs from the plan by 0.3000, limit 0.2000"
    )
    ramp = np.linspace(0, 1.2, 24)[:, None] * [1, 0]
    judgement = LIMITS.judge(faded(Plan.rest(np.zeros(2), BEGIN_NS), ramp, BEGIN_NS, 0.4))
    assert judgement.verdict is Verdict.REJECTED_POSITION and "a reaches 1.2" in judgement.reason


def test_smoothing_keeps_motion_and_removes_noise() -> None:
    t = np.arange(24)[:, None] / 30
    cubic = 0.2 * t - 0.5 * t**2 + 0.3 * t**3
    np.testing.assert_allclose(smoothed(cubic, 21), cubic, atol=1e-12)
    noise = 0.01 * np.random.default_rng(0).standard_normal((24, 1))
    rough, smooth = np.abs(np.diff(noise, 2, axis=0)).max(), np.abs(np.diff(smoothed(noise, 21), 2, axis=0)).max()
    assert smooth < 0.1 * rough


def test_a_gripper_that_closes_abruptly_stays_between_its_stops() -> None:
    closing = np.concatenate([np.full(10, 0.773), np.linspace(0.773, 0.012, 6), np.full(8, 0.012)])[:, None]
    gentle = averaged(closing)
    assert gentle.min() >= 0.012 - 1e-12 and gentle.max() <= 0.773 + 1e-12
    assert smoothed(closing, 47).min() < 0.0, "what a filter that keeps motion would do"
    np.testing.assert_allclose(gentle[[0, -1], 0], [0.773, 0.012])


def test_the_cross_fade_weight_begins_and_ends_without_a_kink() -> None:
    x = np.array([-1.0, 0.0, 0.5, 1.0, 2.0])
    np.testing.assert_allclose(smootherstep(x), [0, 0, 0.5, 1, 1])


@given(st.integers(0, 2_000_000), st.integers(0, 30))
@example(940_247, 25)
@example(1_032_952, 24)  # a millisecond behind a knot of the tail: two steps of acceleration in one control period
@settings(deadline=None)
def test_a_stop_at_any_nanosecond_or_a_control_period_later_comes_to_rest_nearby(beside_ns: int, knot: int) -> None:
    """Also when the stop falls a few nanoseconds beside a knot of the plan."""
    plan = faded(Plan.rest(np.zeros(2), BEGIN_NS), sine(0.1), BEGIN_NS, 0.2).with_tail(LIMITS.by_joint, STEP_NS)
    begin_ns = BEGIN_NS + knot * STEP_NS + beside_ns
    allowed = []
    for at_ns in (begin_ns, begin_ns + CONTROL_NS):
        stop = plan.after(at_ns - 50_000_000).until(at_ns).with_tail(LIMITS.by_joint, STEP_NS)
        assert (stop.velocities[-1] == 0).all()
        assert np.abs(stop.positions[-1] - plan.sample([at_ns])[0]).max() < 0.1
        allowed.append(bool(LIMITS.judge(stop)))
    assert any(allowed)


def test_a_jump_of_the_command_is_measured_where_it_is() -> None:
    rest, elsewhere = Plan.rest(np.zeros(2), BEGIN_NS), Plan.rest(np.array([0.0, 0.01]), BEGIN_NS)
    assert seam(rest, rest, BEGIN_NS, LIMITS.acceleration) == Seam(0.0, 0.0)
    assert abs(seam(rest, elsewhere, BEGIN_NS, LIMITS.acceleration).velocity_jump - (1.0 - 0.06)) < 1e-9


@pytest.mark.parametrize(("highest", "accepted"), [(1.0 - 1e-6, True), (1.0 + 1e-6, False)])
def test_a_position_beyond_the_limit_is_found_wherever_it_lies_between_two_knots(
    highest: float, accepted: bool
) -> None:
    # From 1 rad/s to -0.9 in 2 s: at 0.95 rad/s² back, so the highest point is 1 / 1.9 rad above the start.
    first = highest - 1 / 1.9
    positions = np.array([[first, 0.0], [first + 0.1, 0.0]])
    plan = Plan(BEGIN_NS + np.array([0, 2 * NS_PER_S]), positions, np.array([[1.0, 0.0], [-0.9, 0.0]]))
    assert bool(LIMITS.judge(plan)) == accepted


@pytest.mark.parametrize("rounded", [0.0, 1e-17, 1e-12])
def test_a_joint_at_its_limit_may_not_go_beyond_it_though_rounding_puts_it_outside(rounded: float) -> None:
    at = LIMIT.lower - rounded
    knots_ns = BEGIN_NS + np.array([0, NS_PER_S])
    plan = Plan(knots_ns, np.array([[at, 0.0], [LIMIT.lower - 0.005, 0.0]]), np.zeros((2, 2)))
    assert LIMITS.judge(plan).verdict is Verdict.REJECTED_POSITION


def test_a_joint_measured_just_outside_its_range_may_come_back_in_but_not_go_on() -> None:
    def moving(to: float) -> Plan:
        rows = np.linspace(1.004, to, 24)[:, None] * [1, 0]
        return faded(Plan.rest(np.array([1.004, 0.0]), BEGIN_NS), rows, BEGIN_NS, 0.2)

    assert LIMITS.judge(moving(0.9).with_tail(LIMITS.by_joint, STEP_NS))
    assert LIMITS.judge(moving(1.03)).verdict is Verdict.REJECTED_POSITION


def test_the_cached_spline_is_the_spline() -> None:
    rows, start = sine(0.1, 0.5), np.array([0.2, -0.3])
    from_rows, from_start = spline_velocities(24)
    step_s = 1 / 30
    expected = CubicSpline(np.arange(24) * step_s, rows, axis=0, bc_type=((1, start), "not-a-knot"))
    ours = from_rows @ rows / step_s + from_start[:, None] * start
    np.testing.assert_allclose(ours, expected(np.arange(24) * step_s, 1), atol=1e-10)


@given(st.floats(0.05, 1.0))
@settings(deadline=None)
def test_a_plan_as_sent_is_one_cubic_up_to_the_first_point_and_the_plan_before_and_behind(when_s: float) -> None:
    plan = faded(Plan.rest(np.zeros(2), BEGIN_NS), sine(0.1), BEGIN_NS, 0.2).with_tail(LIMITS.by_joint, STEP_NS)
    now_ns, past_ns = BEGIN_NS + round(when_s * NS_PER_S), 40_000_000
    first_ns = now_ns + 50_000_000
    sent = plan.as_sent(now_ns, first_ns, past_ns)
    outside = np.concatenate(
        [np.arange(now_ns - past_ns, now_ns, 1_000_000), np.arange(first_ns, plan.end_ns, 1_000_000)]
    )
    np.testing.assert_allclose(sent.sample(outside)[0], plan.sample(outside)[0], atol=1e-5)
    inside = sent.sample(np.linspace(now_ns, first_ns, 9).astype(np.int64))[0]
    np.testing.assert_allclose(np.diff(inside, 4, axis=0), 0, atol=1e-12)
    assert np.abs(inside - plan.sample(np.linspace(now_ns, first_ns, 9).astype(np.int64))[0]).max() < 1e-3


def test_what_a_following_chunk_fades_from_goes_on_at_the_speed_of_the_last_row() -> None:
    rows = np.linspace(0.0, 0.23, 24)[:, None] * np.ones(2)  # 0.01 rad a step
    chunk = faded(Plan.rest(np.zeros(2), BEGIN_NS), rows, BEGIN_NS, 0.1)
    plan = chunk.with_tail(LIMITS.by_joint, STEP_NS)
    start_ns = BEGIN_NS + 24 * STEP_NS
    on = plan.carried_on(start_ns, STEP_NS, 6)
    np.testing.assert_allclose(on.sample([start_ns - STEP_NS])[0], [[0.23, 0.23]], atol=1e-9)
    positions, velocities = on.sample(start_ns + STEP_NS * np.arange(6))
    np.testing.assert_allclose(positions[:, 0], 0.23 + 0.01 * np.arange(1, 7), atol=1e-4)
    np.testing.assert_allclose(velocities, 0.3, atol=3e-3)
    assert (plan.sample([start_ns])[0] < positions[0]).all()  # where the tail would have led


def test_a_plan_carried_on_gives_up_its_acceleration_evenly_and_then_keeps_its_speed() -> None:
    t = np.arange(24)[:, None] / 30
    chunk = faded(Plan.rest(np.zeros(2), BEGIN_NS), 0.5 * t * t * np.ones(2), BEGIN_NS, 0.1)  # 1 rad/s² at the end
    last_ns = BEGIN_NS + 23 * STEP_NS
    on = chunk.with_tail(LIMITS.by_joint, STEP_NS).carried_on(last_ns + STEP_NS, STEP_NS, 6)
    first, last = on.accelerations
    begin = int(np.flatnonzero(on.knots_ns == last_ns)[0])
    np.testing.assert_allclose(last[begin - 1], 1.0, atol=0.05)
    np.testing.assert_allclose(first[begin:, 0], [1.0, 0.5, 0, 0, 0, 0], atol=0.05)
    np.testing.assert_allclose(last[begin:, 0], [0.5, 0, 0, 0, 0, 0], atol=0.05)
