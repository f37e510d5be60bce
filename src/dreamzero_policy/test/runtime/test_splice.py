"""From a plan and a chunk's rows to the next plan: which way is taken, what is refused, and what limits mean."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamzero_policy.runtime.chunk import Verdict
from dreamzero_policy.runtime.contract import JointLimits, Margin
from dreamzero_policy.runtime.limits import Limits
from dreamzero_policy.runtime.observation import NS_PER_S
from dreamzero_policy.runtime.plan import Plan, Rows, smootherstep
from dreamzero_policy.runtime.splice import Splice, splice

STEP_NS = NS_PER_S // 30
BEGIN_NS = 50 * NS_PER_S
JOINTS = ("a", "b")
LIMIT = JointLimits(lower=-1.0, upper=1.0, velocity=3.0, acceleration=6.0, jerk=240.0, step=0.2)
LIMITS = Limits(JOINTS, dict.fromkeys(JOINTS, LIMIT))
ROOMY = Limits(JOINTS, dict.fromkeys(JOINTS, LIMIT.model_copy(update={"lower": -9.0, "upper": 9.0})))


def ramp(speed: float, begin: float = 0.0, count: int = 24) -> np.ndarray:
    """Rows of joint a in even motion, joint b at rest."""
    return np.stack([begin + speed * np.arange(count) / 30, np.zeros(count)], axis=1)


def going(speed: float) -> Plan:
    """A plan that gets joint a into even motion within 0.4 s of BEGIN_NS."""
    speeds = speed * smootherstep(np.arange(36) / 12)
    rows = np.stack([np.cumsum(speeds) / 30, np.zeros(36)], axis=1)
    begin = Rows(rows, BEGIN_NS, STEP_NS)
    return splice(Plan.rest(rows[0], BEGIN_NS), begin, BEGIN_NS, (1e-3,), LIMITS).plan


def into(plan: Plan, rows: np.ndarray, start_ns: int, *blends_s: float, earliest_ns: int = 0) -> Splice:
    return splice(plan.after(BEGIN_NS), Rows(rows, start_ns, STEP_NS), earliest_ns or start_ns, blends_s, LIMITS)


def test_the_shortest_cross_fade_inside_the_limits_is_taken() -> None:
    here = Plan.rest(np.zeros(2), BEGIN_NS)
    rows = np.tile([0.1, 0.0], (24, 1))
    # A fade over T asks for 5.77 * 0.1 / T² rad/s²: 14 for 0.2 s, 4.7 for 0.35 s.
    assert into(here, rows, BEGIN_NS + STEP_NS, 0.2, 0.35, 0.6).way == "cross-fade of 0.35 s"
    assert into(here, rows, BEGIN_NS + STEP_NS, 0.6, 0.35).way == "cross-fade of 0.6 s"


def test_where_no_cross_fade_stays_inside_the_limits_a_bridge_does() -> None:
    start_ns = BEGIN_NS + 18 * STEP_NS
    plan = going(0.6)
    ((position, _),), ((speed, _),) = plan.sample([start_ns])
    assert speed == pytest.approx(0.6, abs=0.05)
    rows = np.tile([position - 0.05, 0.0], (24, 1))  # stand, a little behind
    spliced = into(plan, rows, start_ns, 0.05, 0.1)
    assert spliced.way == "bridge" and spliced.judgement
    np.testing.assert_allclose(spliced.plan.sample([start_ns + 23 * STEP_NS])[0], rows[-1:], atol=1e-9)


@given(st.floats(-1.0, 1.0), st.floats(-0.15, 0.15), st.floats(-0.8, 0.8), st.integers(0, 23))
@settings(deadline=None)
def test_a_bridge_leaves_and_arrives_without_a_jolt(speed: float, beside: float, next_speed: float, when: int) -> None:
    start_ns = BEGIN_NS + when * STEP_NS + 7_000_000
    plan = going(speed)
    ((position, _),), _ = plan.sample([start_ns])
    rows = Rows(ramp(next_speed, position + beside, 40), start_ns, STEP_NS)
    bridged = plan.bridge(rows, LIMITS.by_joint)
    assert bridged is not None, "40 rows are time enough"
    before, behind = np.array([start_ns - 1_000, start_ns + 1_000])
    for at, other in ((before, plan), (behind, plan)):
        np.testing.assert_allclose(bridged.sample([at])[0], other.sample([at])[0], atol=1e-6)
    speeds = bridged.sample([before, behind])[1]
    np.testing.assert_allclose(speeds[1], speeds[0], atol=1e-4)
    bridged = bridged.with_tail(LIMITS.by_joint, STEP_NS)
    assert ROOMY.judge(bridged.after(BEGIN_NS)), "inside the limits, jerk over both ends too"
    np.testing.assert_allclose(bridged.sample(rows.instants_ns[-1:])[0], rows.positions[-1:], atol=1e-9)


def test_a_late_chunk_is_entered_where_it_should_be_by_then() -> None:
    rows = ramp(0.15)
    now_ns = BEGIN_NS + round(6.4 * STEP_NS)
    plan = Plan.rest(rows[7], BEGIN_NS)
    spliced = into(plan, rows, BEGIN_NS, 0.1, earliest_ns=now_ns)
    assert spliced.start_ns == BEGIN_NS + 7 * STEP_NS
    late = np.arange(12, 24)
    np.testing.assert_allclose(spliced.plan.sample(BEGIN_NS + late * STEP_NS)[0], rows[late], atol=1e-9)
    np.testing.assert_allclose(spliced.plan.sample([spliced.start_ns])[0], rows[7:8], atol=1e-12)


def test_a_chunk_whose_rows_are_past_is_rejected_with_their_number() -> None:
    plan = Plan.rest(np.zeros(2), BEGIN_NS)
    for late_steps, left in ((23, 1), (24, 0), (100, 0)):
        spliced = into(plan, ramp(0.1), BEGIN_NS, 0.2, earliest_ns=BEGIN_NS + late_steps * STEP_NS)
        assert spliced.judgement.verdict is Verdict.REJECTED_LATE
        assert spliced.judgement.reason == f"{left} of 24 rows are still to come, 2 are needed"
        assert spliced.plan.end_ns == BEGIN_NS


def test_a_first_row_beyond_the_step_limit_is_not_bridged() -> None:
    spliced = into(Plan.rest(np.zeros(2), BEGIN_NS), ramp(0.0, 0.21), BEGIN_NS + STEP_NS, 0.6)
    assert spliced.judgement.verdict is Verdict.REJECTED_STEP


def test_the_reason_of_a_rejection_is_that_of_the_longest_cross_fade() -> None:
    rows = ramp(1.0, 0.1)
    rows[:, 0] = np.where(np.arange(24) < 12, rows[:, 0], 2 * rows[11, 0] - rows[:, 0])  # turns round in one step
    spliced = into(Plan.rest(np.zeros(2), BEGIN_NS), rows, BEGIN_NS + STEP_NS, 0.2, 0.35)
    assert spliced.judgement.verdict is Verdict.REJECTED_ACCELERATION and spliced.way == ""


def with_acceleration(first: float, then: float) -> Plan:
    """Joint a speeds up by `first`, then by `then`, 0.1 s each, and comes to rest: acceleration steps between."""
    knots_ns = BEGIN_NS + np.array([0, 100, 200]) * 1_000_000
    v1, v2 = 0.1 * first, 0.1 * (first + then)
    positions = np.array([[0.0, 0.0], [0.05 * v1, 0.0], [0.05 * v1 + 0.05 * (v1 + v2), 0.0]])
    return Plan(knots_ns, positions, np.array([[0.0, 0.0], [v1, 0.0], [v2, 0.0]])).with_tail(LIMITS.by_joint, STEP_NS)


def test_a_step_of_acceleration_counts_as_what_it_is_over_one_control_period() -> None:
    assert LIMITS.judge(with_acceleration(1.0, 3.3)), "2.3 rad/s² in 10 ms: 230 rad/s³"
    judgement = LIMITS.judge(with_acceleration(1.0, 3.6))
    assert judgement.verdict is Verdict.REJECTED_JERK
    assert judgement.reason == "a reaches the jerk 260.0000, limit 240.0000"


def any_motion(seed: int, shortest_ns: int) -> Plan:
    """Twelve knots of two joints, so long apart at least."""
    rng = np.random.default_rng(seed)
    knots_ns = BEGIN_NS + np.cumsum(rng.integers(shortest_ns, 60_000_000, 12))
    velocities = 0.1 * rng.normal(size=(12, 2))
    velocities[-1] = 0.0
    return Plan(knots_ns, 1e-3 * rng.normal(size=(12, 2)), velocities)


seeds = st.integers(0, 2**32 - 1)


@given(seeds, st.integers(0, 9_999_999), st.sampled_from([1_000_000, 10_000_000]))
@settings(deadline=None, max_examples=200)
def test_no_phase_of_a_100_hz_controllers_samples_shows_more_jerk_than_is_judged(
    seed: int, phase_ns: int, shortest_ns: int
) -> None:
    plan = any_motion(seed, shortest_ns)
    instants = np.arange(plan.knots_ns[0] + phase_ns, plan.end_ns + 50_000_000, 10_000_000)
    shown = np.abs(np.diff(plan.sample(instants)[0], 3, axis=0)).max(0) / 0.01**3
    generous = JointLimits(**LIMIT.model_dump() | {"velocity": 1e6, "acceleration": 1e9, "jerk": 1e12})
    for joint, jerk in enumerate(shown):
        just_below = generous.model_copy(update={"jerk": 0.999 * jerk})
        limits = Limits(JOINTS, {name: just_below if i == joint else generous for i, name in enumerate(JOINTS)})
        assert limits.judge(plan).verdict is Verdict.REJECTED_JERK


def test_margins_narrow_what_a_command_may_use() -> None:
    keeping = LIMIT.model_copy(update={"margin": Margin(absolute=0.05, fraction=0.1)})
    usable = keeping.usable
    assert (usable.lower, usable.upper) == pytest.approx((-0.75, 0.75)), "a tenth of the range of 2, and 0.05"
    assert (usable.velocity, usable.acceleration, usable.jerk) == pytest.approx((2.7, 5.4, 216.0))
    assert usable.step == 0.2
    with pytest.raises(ValueError, match=r"leave nothing between -1\.0 and 1\.0"):
        JointLimits(**LIMIT.model_dump() | {"margin": {"absolute": 1.0}})


@pytest.mark.parametrize(
    ("begin", "end", "accepted"), [(0.9, 0.7, True), (0.9, 0.9, True), (0.9, 0.92, False), (0.7, 0.78, False)]
)
def test_a_joint_that_stands_in_its_margin_may_stay_and_come_back_but_not_go_on(
    begin: float, end: float, accepted: bool
) -> None:
    keeping = LIMIT.model_copy(update={"margin": Margin(absolute=0.25)})
    limits = Limits(JOINTS, {"a": keeping, "b": LIMIT})
    rows = begin + (end - begin) * smootherstep(np.arange(24) / 23)
    rows = Rows(np.stack([rows, np.zeros(24)], axis=1), BEGIN_NS, STEP_NS)
    judgement = splice(Plan.rest(rows.positions[0], BEGIN_NS), rows, BEGIN_NS, (0.2,), limits).judgement
    assert bool(judgement) is accepted
    assert accepted or judgement.reason == f"a reaches {end:.4f}, limits -0.7500 to 0.7500"
