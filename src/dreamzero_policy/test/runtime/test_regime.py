"""The choice of the regime: by arithmetic, with a margin to enter, and without going back and forth."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamzero_policy.runtime.regime import MARGIN, REMEMBERED, Mode, RegimeChooser, RegimeSettings

HORIZON_S = 0.8


def chosen(latencies_s: list[float], regime: str = "auto", overlap: str = "auto") -> list[Mode]:
    chooser = RegimeChooser(RegimeSettings(regime, overlap), HORIZON_S)
    return [chooser.measured(latency_s) for latency_s in latencies_s]


@pytest.mark.parametrize(
    ("latency_s", "mode"),
    [
        (0.30, Mode("overlap", "two_sessions")),  # 0.8 · 0.8 / 2 = 0.32
        (0.35, Mode("overlap", "look_ahead")),
        (0.63, Mode("overlap", "look_ahead")),  # 0.8 · 0.8 = 0.64
        (0.80, Mode("slowed", "look_ahead", 0.8)),
        (1.10, Mode("slowed", "look_ahead", 0.55)),
        (1.40, Mode("stop_and_go")),  # 0.8 · 0.8 / 1.4 is below half the speed
    ],
)
def test_the_first_latency_tells_the_mode(latency_s: float, mode: Mode) -> None:
    (got,) = chosen([latency_s])
    assert (got.regime, got.way) == (mode.regime, mode.way)
    assert got.speed == pytest.approx(mode.speed)


def test_before_anything_is_measured_the_robot_stops_and_goes() -> None:
    assert RegimeChooser(RegimeSettings("auto"), HORIZON_S).mode == Mode("stop_and_go")


def test_what_is_set_is_in_force_whatever_is_measured() -> None:
    assert {mode.regime for mode in chosen([0.1, 5.0, 0.1], "stop_and_go")} == {"stop_and_go"}
    assert {mode.regime for mode in chosen([0.1, 5.0, 0.1], "overlap")} == {"overlap"}
    assert {(mode.regime, mode.speed) for mode in chosen([5.0, 9.0], "slowed")} == {("slowed", 0.5)}
    assert {mode.way for mode in chosen([0.1, 5.0], "overlap", "two_sessions")} == {"two_sessions"}


def test_a_mode_is_entered_with_a_margin_and_left_without() -> None:
    modes = chosen([0.7, *[0.63] * REMEMBERED, 0.79, 0.81])
    assert [mode.regime for mode in (modes[0], modes[-3], modes[-2], modes[-1])] == [
        *["slowed", "overlap", "overlap", "slowed"],
    ]


def test_one_slow_answer_counts_until_it_is_forgotten() -> None:
    modes = chosen([0.5, 2.0, *[0.5] * REMEMBERED])
    assert [mode.regime for mode in modes] == ["overlap", *["stop_and_go"] * REMEMBERED, "overlap"]


@given(
    st.floats(0.01, 3.0), st.lists(st.floats(MARGIN, 1.0), min_size=1, max_size=60), st.sampled_from(["auto", "slowed"])
)
def test_latencies_within_the_margin_never_bring_a_mode_back(largest_s, shares, regime) -> None:
    modes = chosen([largest_s * share for share in shares], regime)
    changes = [modes[0], *(b for a, b in pairwise(modes) if a != b)]
    assert len(changes) == len(set(changes))


@given(st.lists(st.floats(0.01, 3.0), min_size=1, max_size=40))
def test_the_mode_in_force_is_free_of_gaps_for_what_is_remembered(latencies_s) -> None:
    for k, mode in enumerate(chosen(latencies_s)):
        assert max(latencies_s[max(0, k - REMEMBERED + 1) : k + 1]) <= mode.longest_s(HORIZON_S) + 1e-9
