"""A clock that was set is noticed, one that runs is not, however the process that looks at it is held up."""

from hypothesis import given
from hypothesis import strategies as st

from dreamzero_policy.runtime.clock import ClockWatch
from dreamzero_policy.runtime.observation import NS_PER_S

MS = NS_PER_S // 1000
TICK_MS, THRESHOLD_MS = 20, 50


def watched(readings: list[tuple[float, float, float]], threshold_s: float = 0.05) -> list[bool]:
    """What is noticed of (monotonic clock before, clock, monotonic clock after) [s]."""
    watch = ClockWatch(threshold_s)
    return [watch.step_ns(*(round(second * NS_PER_S) for second in reading)) != 0 for reading in readings]


def test_a_clock_that_was_set_either_way_is_noticed_once() -> None:
    readings = [(1.0, 100.0, 1.0), (1.05, 100.05, 1.05), (1.1, 100.2, 1.1), (1.15, 100.25, 1.15), (1.2, 100.2, 1.2)]
    assert watched([*readings, (1.25, 100.25, 1.25)]) == [False, False, True, False, True, False]


def test_a_process_that_slept_or_a_clock_that_is_slewed_is_no_step() -> None:
    assert not any(watched([(1.0, 100.0, 1.0), (61.0, 160.0, 61.0), (161.0, 260.08, 161.0), (261.0, 360.16, 261.0)]))


def test_a_process_that_loses_its_core_between_two_clocks_takes_that_for_no_step() -> None:
    """Read a second apart, the clocks differ by a second more, and nothing was set."""
    assert not any(watched([(1.0, 100.0, 1.0), (1.02, 100.02, 2.02), (2.04, 101.04, 2.04), (2.06, 102.06, 3.06)]))


def test_a_step_while_the_process_had_lost_its_core_is_noticed_by_the_next_reading() -> None:
    assert watched([(1.0, 100.0, 1.0), (1.02, 100.42, 1.52), (1.54, 100.94, 1.54)])[-1]


def test_a_step_below_the_threshold_is_let_pass_and_the_next_one_is_judged_from_there() -> None:
    readings = [(1.0, 100.0, 1.0), (1.02, 100.06, 1.02), (1.04, 100.12, 1.04), (1.06, 100.28, 1.06)]
    assert watched(readings) == [False, False, False, True]


@given(
    held_up_ms=st.lists(st.tuples(st.integers(0, 900), st.integers(0, 900)), min_size=2, max_size=30),
    step_ms=st.integers(-5000, 5000),
    at=st.integers(1, 28),
)
def test_whatever_a_process_is_held_up_a_step_is_noticed_if_and_only_if_there_was_one(
    held_up_ms: list[tuple[int, int]], step_ms: int, at: int
) -> None:
    """Held up before or after the clock was read; the step comes between two readings, and a quick one follows."""
    watch, monotonic_ms, noticed = ClockWatch(THRESHOLD_MS / 1000), 0, 0
    at = min(at, len(held_up_ms) - 1)
    for number, (before_ms, after_ms) in enumerate([(0, 0), *held_up_ms, (0, 0)]):
        now_ms = 100_000 + monotonic_ms + before_ms + (step_ms if number > at else 0)
        noticed += watch.step_ns(monotonic_ms * MS, now_ms * MS, (monotonic_ms + before_ms + after_ms) * MS) != 0
        monotonic_ms += before_ms + after_ms + TICK_MS
    longest_ms = sum(map(sum, held_up_ms)) + TICK_MS * (len(held_up_ms) + 2)
    if step_ms == 0:
        assert noticed == 0
    elif abs(step_ms) > THRESHOLD_MS + 0.001 * longest_ms:  # what slewing cannot have done meanwhile
        assert noticed == 1
    else:
        assert noticed <= 1


def test_it_reads_both_clocks_itself() -> None:
    watch, clock_ns = ClockWatch(0.05), 100 * NS_PER_S
    now_ns, _, step_ns = watch.read(lambda: clock_ns)
    assert (now_ns, step_ns) == (clock_ns, 0)
    _, _, step_ns = watch.read(lambda: clock_ns + 5 * NS_PER_S)
    assert abs(step_ns - 5 * NS_PER_S) < NS_PER_S


def test_the_step_is_told_without_the_time_that_passed() -> None:
    watch = ClockWatch(0.05)
    assert watch.step_ns(1_000 * MS, 100_000 * MS, 1_000 * MS) == 0
    assert abs(watch.step_ns(1_400 * MS, 100_460 * MS, 1_400 * MS) - 60 * MS) <= MS  # 0.4 s passed, 0.06 s were set
