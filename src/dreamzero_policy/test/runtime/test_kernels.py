"""The compiled kernels are the numpy code they stand in for: bit for bit, verdict for verdict, reason for reason."""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamzero_policy.runtime import kernels
from dreamzero_policy.runtime.chunk import Verdict
from dreamzero_policy.runtime.contract import JointLimits, Margin
from dreamzero_policy.runtime.limits import CONTROL_NS, CONTROL_S, ROUNDING, TOLERANCES, Limits
from dreamzero_policy.runtime.observation import NS_PER_S
from dreamzero_policy.runtime.plan import Plan, Rows, faded_in
from dreamzero_policy.runtime.splice import splice

STEP_NS = NS_PER_S // 30
BEGIN_NS = 50 * NS_PER_S
JOINTS = ("a", "b", "c")
LIMIT = JointLimits(
    lower=-1.0, upper=1.0, velocity=3.0, acceleration=6.0, jerk=240.0, step=0.2, margin=Margin(absolute=0.1)
)
LIMITS = Limits(JOINTS, dict.fromkeys(JOINTS, LIMIT))
WIDE = {"lower": -1e9, "upper": 1e9, "velocity": 1e9, "acceleration": 1e9, "jerk": 1e9}

compiled = pytest.mark.skipif(not kernels.in_use(), reason=kernels.told())
seeds = st.integers(0, 2**32 - 1)


def wave(seed: int, reach: float, knots: int, gaps_ns: tuple[int, int] = (1_000_000, 70_000_000)) -> Plan:
    """Smooth motion through knots at uneven times, that may begin outside a limit."""
    rng = np.random.default_rng(seed)
    knots_ns = BEGIN_NS + np.cumsum(rng.integers(*gaps_ns, knots, endpoint=True))
    t = (knots_ns - knots_ns[0])[:, None] / NS_PER_S
    pace, phase = rng.uniform(0.1, 12, len(JOINTS)), rng.uniform(0, 6, len(JOINTS))
    return Plan(knots_ns, reach * np.sin(pace * t + phase), reach * pace * np.cos(pace * t + phase))


def spoilt(plan: Plan, seed: int) -> Plan:
    """With a number that no motion has."""
    rng = np.random.default_rng(seed)
    positions, velocities = plan.positions.copy(), plan.velocities.copy()
    array = positions if rng.integers(2) else velocities
    array[rng.integers(len(array)), rng.integers(len(JOINTS))] = rng.choice([np.nan, np.inf, -np.inf, 1e300, -0.0])
    return Plan(plan.knots_ns, positions, velocities)


def within(limits: Limits, plan: Plan) -> bool:
    table = limits.table
    return kernels.plan_within(plan.knots_ns, plan.positions, plan.velocities, table, TOLERANCES, CONTROL_NS, CONTROL_S)


def test_the_kernels_are_built_where_tests_run() -> None:
    assert kernels.in_use() or os.environ.get(kernels.SWITCH) == "numpy", kernels.told()


@compiled
@given(seeds, st.integers(1, 80), st.lists(st.integers(-NS_PER_S, 4 * NS_PER_S), max_size=30), st.booleans())
@settings(max_examples=400, deadline=None)
def test_samples_are_those_of_numpy_bit_for_bit(seed: int, knots: int, since_ns: list[int], bad: bool) -> None:
    """In any order, between knots, at them and outside."""
    plan = wave(seed, 0.5, knots)
    plan = spoilt(plan, seed) if bad else plan
    instants = np.concatenate([BEGIN_NS + np.array(since_ns, np.int64), plan.knots_ns, plan.knots_ns[::-1] - 1])
    ours = plan.sample(instants)
    with np.errstate(all="ignore"):
        reference = plan.sampled(instants)
    np.testing.assert_array_equal(ours[0], reference[0])
    np.testing.assert_array_equal(ours[1], reference[1])


@compiled
@given(seeds, st.integers(1, 64), st.floats(0.0, 5.0), st.integers(1, NS_PER_S))
@settings(max_examples=300, deadline=None)
def test_a_fade_is_that_of_numpy_bit_for_bit(seed: int, count: int, blend_s: float, step_ns: int) -> None:
    old, rows = np.random.default_rng(seed).standard_normal((2, count, 3))
    ours = kernels.fade(old, rows, step_ns, NS_PER_S * blend_s)
    with np.errstate(all="ignore"):  # a fade of no time is none of both
        np.testing.assert_array_equal(ours, faded_in(old, rows, step_ns, NS_PER_S * blend_s))


@compiled
@given(seeds, st.floats(0.005, 1.6), st.integers(1, 80), st.booleans(), st.booleans())
@settings(max_examples=800, deadline=None)
def test_a_plan_is_judged_as_numpy_judges_it(seed: int, reach: float, knots: int, close: bool, bad: bool) -> None:
    plan = wave(seed, reach, knots, (1_000_000, 12_000_000) if close else (1_000_000, 70_000_000))
    plan = spoilt(plan, seed) if bad else plan
    with np.errstate(all="ignore"):
        reference = LIMITS.judged(plan)
        assert LIMITS.judge(plan) == reference
    assert within(LIMITS, plan) is LIMITS.keeps(plan) is bool(reference)


@compiled
@given(seeds, st.sampled_from(["upper", "lower", "velocity", "acceleration", "jerk"]), st.integers(2, 30))
@settings(max_examples=60, deadline=None)
def test_the_line_is_drawn_at_the_very_same_number(seed: int, name: str, knots: int) -> None:
    """The plan is kept, and the one limit halved in on until two neighbouring numbers have it break or not."""

    def limits(value: float) -> Limits:
        limit = JointLimits(**(WIDE | {"step": 1.0} | {name: -value if name == "lower" else value}))
        return Limits(JOINTS, dict.fromkeys(JOINTS, limit))

    plan = wave(seed, 0.5, knots)
    start = plan.positions[0]
    plan = Plan(plan.knots_ns, plan.positions - start, plan.velocities)  # begins inside
    breaks, keeps = 1e-6, 1e6
    if limits(breaks).judged(plan):
        return  # it never moves that way
    while (middle := (breaks + keeps) / 2) not in (breaks, keeps):
        if limits(middle).judged(plan):
            keeps = middle
        else:
            breaks = middle
    assert within(limits(keeps), plan) and not within(limits(breaks), plan)


@compiled
@given(seeds, st.floats(0.005, 1.6), st.integers(1, 5), st.booleans())
@settings(max_examples=300, deadline=None)
def test_the_end_of_a_moving_plan_is_judged_as_numpy_judges_it(seed: int, reach: float, knots: int, bad: bool) -> None:
    plan = wave(seed, reach, knots)
    plan = spoilt(plan, seed) if bad else plan
    with np.errstate(all="ignore"):
        reference = LIMITS.end_judged(plan)
        assert LIMITS.judge_end(plan) == reference
    arrays = plan.knots_ns, plan.positions, plan.velocities
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(kernels.last_acceleration(*arrays), plan.acceleration_at_end())
    assert kernels.end_within(*arrays, LIMITS.table, TOLERANCES) is bool(reference)


@compiled
@given(seeds, st.integers(1, 40), st.floats(0.0, 0.4), st.sampled_from([0.0, np.nan, np.inf, -np.inf]))
@settings(max_examples=300, deadline=None)
def test_rows_are_judged_as_numpy_judges_them(seed: int, count: int, away: float, bad: float) -> None:
    rng = np.random.default_rng(seed)
    rows, present = rng.standard_normal((count, 3)), rng.standard_normal(3)
    rows[0] = present + away * rng.choice([-1, 1], 3)
    rows[rng.integers(count), rng.integers(3)] += bad
    reference = LIMITS.rows_judged(rows, present)
    assert LIMITS.judge_rows(rows, present) == reference
    assert kernels.rows_within(rows, present, LIMITS.table, ROUNDING) is bool(reference)


@compiled
@given(seeds, st.floats(0.01, 0.6), st.floats(0.0, 0.3), st.integers(-5, 30))
@settings(max_examples=100, deadline=None)
def test_a_splice_gives_the_same_plan_by_the_same_way_or_the_same_reason(
    seed: int, reach: float, beside: float, late_steps: int
) -> None:
    rng = np.random.default_rng(seed)
    t = np.arange(24)[:, None] / 30
    pace, phase = rng.uniform(0.5, 4, 3), rng.uniform(0, 6, 3)
    rows = reach * (np.sin(pace * t + phase) - np.sin(phase))
    later = rows + rng.uniform(-beside, beside, 3)

    def spliced() -> list:
        begin = splice(Plan.rest(rows[0], BEGIN_NS), Rows(rows, BEGIN_NS, STEP_NS), BEGIN_NS, (0.2, 0.6), LIMITS)
        now_ns = BEGIN_NS + 8 * STEP_NS + 1_234_567
        sent = begin.plan.as_sent(now_ns, now_ns + 50_000_000, CONTROL_NS)
        chunk = Rows(later, BEGIN_NS + 10 * STEP_NS, STEP_NS)
        return [begin, splice(sent, chunk, chunk.start_ns + late_steps * STEP_NS, (0.1, 0.35), LIMITS)]

    ours = spliced()
    with kernels.switched_off():
        assert not kernels.in_use()
        reference = spliced()
    for one, other in zip(ours, reference, strict=True):
        assert (one.judgement, one.way, one.start_ns) == (other.judgement, other.way, other.start_ns)
        for name in ("knots_ns", "positions", "velocities"):
            np.testing.assert_array_equal(getattr(one.plan, name), getattr(other.plan, name))


@compiled
def test_arrays_of_any_layout_are_taken() -> None:
    plan = wave(0, 0.5, 20)
    reference = plan.sampled(plan.knots_ns)
    for positions in (np.asfortranarray(plan.positions), np.repeat(plan.positions, 2, axis=0)[::2]):
        ours = replace(plan, positions=positions).sample(np.repeat(plan.knots_ns, 2)[::2])
        np.testing.assert_array_equal(ours[0], reference[0])
    single = replace(plan, positions=plan.positions.astype(np.float32))
    exact = replace(single, positions=single.positions.astype(np.float64))
    np.testing.assert_array_equal(single.sample(plan.knots_ns)[0], exact.sampled(plan.knots_ns)[0])


@compiled
def test_arrays_that_do_not_fit_each_other_are_refused_not_read_beyond_their_end() -> None:
    plan = wave(0, 0.5, 20)
    with pytest.raises(ValueError, match=r"velocities must be float64 \[20, 3\], it is .d. \[19, 3\]"):
        replace(plan, velocities=plan.velocities[:-1]).sample([BEGIN_NS])
    with pytest.raises(ValueError, match="positions must be"):
        replace(plan, positions=plan.positions[:5]).sample([BEGIN_NS])
    with pytest.raises(ValueError, match="one knot at least"):
        Plan(plan.knots_ns[:0], plan.positions[:0], plan.velocities[:0]).sample([BEGIN_NS])
    with pytest.raises(ValueError, match=r"table must be float64 \[8, 3\], it is .d. \[7, 3\]"):
        kernels.rows_within(plan.positions, plan.positions[0], LIMITS.table[:7], ROUNDING)
    assert not LIMITS.judge(wave(0, 50.0, 20)) and LIMITS.judge(wave(0, 1e-3, 20)).verdict is Verdict.ACCEPTED


@pytest.mark.parametrize(("switch", "said"), [("numpy", "numpy (DREAMZERO_KERNELS=numpy)"), ("", "compiled")])
def test_the_switch_leaves_the_work_to_numpy(switch: str, said: str) -> None:
    if not switch and not kernels.in_use():
        pytest.skip(kernels.told())
    assert (told(switch)).stdout.strip() == said


def test_a_switch_that_means_nothing_is_refused() -> None:
    assert "DREAMZERO_KERNELS is 'fast'" in told("fast").stderr


def told(switch: str) -> subprocess.CompletedProcess:
    """What a process says that starts with the switch."""
    program = "from dreamzero_policy.runtime import kernels; print(kernels.told())"
    environment = os.environ | {kernels.SWITCH: switch}
    return subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60)


@compiled
def test_kernels_of_another_source_than_lies_here_are_not_used(
    tmp_path: "os.PathLike[str]", monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "_kernels.c"
    source.write_bytes(kernels.SOURCE.read_bytes() + b"\n")
    monkeypatch.setattr(kernels, "SOURCE", source)
    assert kernels._loaded("") == (None, "built from another _kernels.c than lies here")
    with pytest.raises(ImportError, match="build the package"):
        kernels._loaded("compiled")
