"""A command is what a joint trajectory controller plays."""

import numpy as np
import pytest

from dreamzero_policy.runtime.command import Command

MS = 1_000_000


def test_a_new_trajectory_starts_from_what_is_commanded_and_replaces_the_rest() -> None:
    command = Command([0.0], 0)
    command.take(0, [100 * MS, 1100 * MS], [[0.0], [1.0]], [[0.0], [0.0]])
    (halfway,), _ = command.plan.sample([600 * MS])
    assert halfway == pytest.approx(0.5)
    command.take(600 * MS, [50 * MS, 250 * MS], [[0.55], [0.6]], [[0.5], [0.0]])
    (now,), _ = command.plan.sample([600 * MS])
    assert now == pytest.approx(0.5)
    np.testing.assert_allclose(command.plan.sample([650 * MS, 5000 * MS])[0], [[0.55], [0.6]])
    assert command.rest_ns == 850 * MS


def test_a_trajectory_that_goes_nowhere_is_rest() -> None:
    command = Command([0.3, 0.4], 7 * MS)
    command.take(10 * MS, [50 * MS, 90 * MS], [[0.3, 0.4]] * 2, np.zeros((2, 2)))
    assert command.rest_ns == 10 * MS
