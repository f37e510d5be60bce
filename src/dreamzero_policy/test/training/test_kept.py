"""What is made once of a picture and kept."""

import torch

from dreamzero_policy.training.kept import Kept


class Maker:
    """Counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self) -> torch.Tensor:
        self.asked += 1
        return torch.full((4,), 1 / 3, requires_grad=True)


def test_a_thing_is_made_once_and_is_the_same_each_time_in_half_precision() -> None:
    kept, make, thing = Kept(), Maker(), object()
    first, second = kept.of(thing, make), kept.of(thing, make)
    assert make.asked == 1
    assert torch.equal(first, torch.full((4,), float(torch.tensor(1 / 3).half())))
    assert torch.equal(first, second)
    assert not first.requires_grad


def test_beyond_the_limit_it_is_made_anew_each_time_and_is_still_the_same() -> None:
    kept, make, things = Kept(most_bytes=8), Maker(), (object(), object())
    made = [kept.of(thing, make) for thing in things * 2]
    assert make.asked == 3  # the first once, the second twice
    assert all(torch.equal(made[0], other) for other in made[1:])


def test_things_that_are_equal_are_two_things() -> None:
    kept = Kept()
    assert kept.of([1], lambda: torch.ones(1)) == 1
    assert kept.of([1], lambda: torch.zeros(1)) == 0
