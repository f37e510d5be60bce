"""The demo's film: what stands beside a frame is what had been predicted for it, or is said to be something else."""

import numpy as np
import pytest

from dreamzero_policy.cli.video import Frame, dream_at

MS = 1_000_000
DREAMS = [Frame(100 * MS, np.full((2, 2, 3), 1, np.uint8)), Frame(200 * MS, np.full((2, 2, 3), 2, np.uint8))]


@pytest.mark.parametrize(
    ("at_ms", "shown", "label"),
    [
        (50, None, "nothing predicted for this instant"),
        (100, 1, "predicted for this instant"),
        (260, 2, "predicted for this instant"),
        (500, 2, "predicted for 0.3 s before"),
        (1000, None, "nothing predicted for this instant"),  # the scene may be another one by now
    ],
)
def test_a_prediction_is_shown_for_its_instant_and_not_beside_another_scene(
    at_ms: int, shown: int | None, label: str
) -> None:
    image, said = dream_at(DREAMS, at_ms * MS, fresh_ns=100 * MS, lasts_ns=800 * MS)
    assert said == label
    assert (None if image is None else image[0, 0, 0]) == shown
