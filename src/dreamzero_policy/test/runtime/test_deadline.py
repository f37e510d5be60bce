"""As many denoising steps as there is time for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamzero_policy.runtime.deadline import REMEMBERED, DeadlineSteps
from dreamzero_policy.runtime.policy import Reply


def reply(evaluations: int, denoise_s: float) -> Reply:
    timings_s = {"denoise": denoise_s}
    return Reply(1, np.zeros((24, 32), np.float32), evaluations, evaluations, 0, 1.0, timings_s)


def timed(full: int, *answers: tuple[int, float, float]) -> DeadlineSteps:
    """After answers of so many evaluations, seconds of denoising, and seconds in all."""
    rule = DeadlineSteps(full)
    for evaluations, denoise_s, answer_s in answers:
        rule.took(reply(evaluations, denoise_s), answer_s)
    return rule


@pytest.mark.parametrize(("time_left_s", "steps"), [(0.51, 4), (0.49, 2), (0.31, 2), (0.29, 1), (0.0, 1), (-2.0, 1)])
def test_the_steps_are_halved_until_they_fit(time_left_s: float, steps: int) -> None:
    assert timed(4, (4, 0.4, 0.5)).steps(time_left_s) == steps  # 0.1 s a step and 0.1 s beside


def test_a_robot_at_rest_waits_for_all_steps() -> None:
    assert timed(16, (16, 9.0, 10.0)).steps(None) == 16


def test_nothing_is_cut_before_an_answer_was_timed() -> None:
    assert DeadlineSteps(4).steps(0.0) == 4


def test_the_slowest_of_the_last_answers_counts_and_is_forgotten() -> None:
    quick = (4, 0.04, 0.05)
    assert timed(4, (4, 4.0, 4.1), *[quick] * (REMEMBERED - 1)).steps(0.5) == 1
    assert timed(4, (4, 4.0, 4.1), *[quick] * REMEMBERED).steps(0.5) == 4


@given(st.integers(1, 64), st.floats(0.001, 1.0), st.floats(0.0, 1.0), st.floats(0.0, 5.0))
def test_what_is_taken_fits_unless_it_is_a_single_step(full, step_s, rest_s, time_left_s) -> None:
    steps = timed(full, (1, step_s, step_s + rest_s)).steps(time_left_s)
    assert 1 <= steps <= full
    assert steps == 1 or rest_s + steps * step_s <= time_left_s + 1e-9
    assert steps == full or rest_s + (2 * steps + 1) * step_s > time_left_s - 1e-9
