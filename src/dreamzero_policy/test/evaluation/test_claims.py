"""Claims: what holds, what does not, and what was not measured."""

from collections.abc import Callable

import pytest

from dreamzero_policy.evaluation.claims import judged, outlast_window, pairs_of
from dreamzero_policy.evaluation.stage import Result

WINDOW = 4  # chunks


def verdicts(results: list[Result]) -> dict[str, str]:
    return {claim["claim"]: claim["verdict"] for claim in judged(results, WINDOW, "wam-4")}


def test_a_clear_difference_on_the_same_seeds_holds_and_its_reverse_does_not(result_of: Callable[..., Result]) -> None:
    better = [result_of("flash-1", seed, 0.8 + 0.01 * (seed % 3)) for seed in range(20)]
    worse = [result_of("wam-1", seed, 0.4) for seed in range(20)]
    swapped = [result_of("flash-1", seed, 0.4) for seed in range(20)] + [result_of("wam-1", s, 0.8) for s in range(20)]
    assert verdicts(better + worse)["Flash 1 above coupled 1"] == "holds"
    assert verdicts(swapped)["Flash 1 above coupled 1"] == "does not hold"


def test_no_difference_does_not_hold_but_is_within_a_margin(result_of: Callable[..., Result]) -> None:
    results = [result_of(method, seed, 0.5) for seed in range(10) for method in ("flash-1", "wam-1", "wam-4")]
    assert verdicts(results)["Flash 1 above coupled 1"] == "does not hold"
    assert verdicts(results)["Flash 1 within 9 points of 4 steps"] == "holds"


def test_ten_points_below_is_not_within_nine(result_of: Callable[..., Result]) -> None:
    results = [result_of(m, seed, value) for seed in range(10) for m, value in (("flash-1", 0.5), ("wam-4", 0.6))]
    assert verdicts(results)["Flash 1 within 9 points of 4 steps"] == "does not hold"


def test_what_was_not_measured_is_said_to_be_so(result_of: Callable[..., Result]) -> None:
    results = [result_of("wam-4", seed, 0.5, "seen") for seed in range(3)]
    found = verdicts(results + [result_of("vla-4", seed, 0.1, "seen") for seed in range(3)])
    assert found["WAM above VLA on unseen progress"] == "not measured"
    assert found["injection above no injection"] == "not measured"


def test_only_the_same_split_and_seed_make_a_pair(result_of: Callable[..., Result]) -> None:
    ours = [result_of("wam-4", seed, 0.5) for seed in (1, 2)] + [result_of("wam-4", 3, 0.5, "unseen")]
    theirs = [result_of("vla-4", seed, 0.1) for seed in (2, 3)]
    assert [(a.seed, b.seed) for a, b in pairs_of(ours + theirs, "wam-4", "vla-4")] == [(2, 2)]


def test_episodes_over_within_the_first_window_can_be_left_out_of_the_injection_claim(
    result_of: Callable[..., Result],
) -> None:
    results = []
    for seed, (ours, theirs) in enumerate([(3, 4), (3, 8), (8, 3), (8, 8)]):
        results += [result_of("wam-4", seed, 1.0, chunks=ours), result_of("no-injection-4", seed, 0.5, chunks=theirs)]
    kept = outlast_window(pairs_of(results, "wam-4", "no-injection-4"), WINDOW)
    assert [pair[0].seed for pair in kept] == [1, 2, 3]
    (claim,) = (claim for claim in judged(results, WINDOW, "wam-4") if claim["claim"] == "injection above no injection")
    assert (claim["episodes"], claim["longer_than_a_window"]["episodes"]) == (4, 3)
    assert claim["longer_than_a_window"]["difference"] == pytest.approx(0.5)


def test_a_claim_over_two_suites_is_also_told_for_each(result_of: Callable[..., Result]) -> None:
    results = [
        result_of(method, seed, value, split)
        for seed in range(5)
        for split, gain in (("seen", 0.2), ("unseen", -0.2))
        for method, value in (("flash-1", 0.5 + gain), ("wam-1", 0.5))
    ]
    (claim,) = (claim for claim in judged(results, WINDOW, "wam-4") if claim["claim"] == "Flash 1 above coupled 1")
    assert claim["difference"] == pytest.approx(0.0, abs=1e-12)
    assert {split: part["verdict"] for split, part in claim["by_split"].items()} == {
        "seen": "holds",
        "unseen": "does not hold",
    }


def test_a_goal_is_reached_by_the_mean(result_of: Callable[..., Result]) -> None:
    results = [result_of("wam-4", seed, 1.0 if seed else 0.0) for seed in range(10)]
    found = {claim["claim"]: claim for claim in judged(results, WINDOW, "wam-4")}
    assert found["seen tasks: success of at least 90 %"]["verdict"] == "holds"
    assert found["unseen combinations: progress of at least 70 %"]["verdict"] == "not measured"
