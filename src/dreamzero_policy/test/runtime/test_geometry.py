"""Workspace and clearance on a robot that is seen at a glance: two hands on one rail, each where its joint says."""

from collections.abc import Sequence

import numpy as np
import pytest

from dreamzero_policy.runtime.chunk import Judgement, Verdict
from dreamzero_policy.runtime.contract import Box, Contract, ContractError
from dreamzero_policy.runtime.embodiment import Floats
from dreamzero_policy.runtime.geometry import KeepsClearOfItself, StaysInWorkspace, checks_of

BOX = Box(lower=(-1.0, -1.0, 0.0), upper=(1.0, 1.0, 2.0))


class Rail:
    """Hands `one` and `two` at x = their joint, y = 0, z = 1; they touch where they meet."""

    hands = ("one", "two")

    def hand_positions(self, hand: str, positions: Floats) -> Floats:
        x = positions[:, self.hands.index(hand)]
        return np.stack([x, np.zeros_like(x), np.ones_like(x)], axis=1)

    def self_distances(self, positions: Floats, reach_m: float) -> tuple[Floats, Sequence[str]]:
        apart = np.minimum(positions[:, 1] - positions[:, 0], reach_m)
        return apart, ["" if distance == reach_m else "one and two" for distance in apart]


def slide(one: Sequence[float], two: Sequence[float]) -> Floats:
    return np.stack([np.linspace(*one, 50), np.linspace(*two, 50)], axis=1)


@pytest.mark.parametrize(
    ("to", "reason"),
    [
        (0.9, ""),
        (1.2, "hand two reaches x 1.200 m, workspace -1.000 to 1.000"),
        (-1.2, "hand two reaches x -1.200 m, workspace -1.000 to 1.000"),
    ],
)
def test_a_hand_stays_in_its_box(to: float, reason: str) -> None:
    judgement = StaysInWorkspace(Rail(), {"two": BOX})(slide((-5.0, -5.0), (0.0, to)))
    assert judgement == Judgement(Verdict.REJECTED_WORKSPACE if reason else Verdict.ACCEPTED, reason)


@pytest.mark.parametrize(("to", "accepted"), [(0.5, True), (1.3, True), (1.31, False), (-1.01, False)])
def test_a_hand_that_stands_outside_may_come_back_but_not_go_on(to: float, accepted: bool) -> None:
    assert bool(StaysInWorkspace(Rail(), {"two": BOX})(slide((0.0, 0.0), (1.3, to)))) is accepted


def test_parts_keep_their_distance() -> None:
    check = KeepsClearOfItself(Rail(), clearance_m=0.05)
    assert check(slide((0.0, 0.0), (0.5, 0.06)))
    judgement = check(slide((0.0, 0.0), (0.5, 0.04)))
    assert judgement.verdict is Verdict.REJECTED_SELF_COLLISION
    assert judgement.reason == "one and two come within 0.0400 m, clearance 0.0500"


def test_parts_that_are_too_near_already_may_part_but_not_come_nearer() -> None:
    check = KeepsClearOfItself(Rail(), clearance_m=0.05)
    assert check(slide((0.0, 0.0), (0.03, 0.5)))
    assert check(slide((0.0, 0.0), (0.03, 0.03)))
    assert not check(slide((0.0, 0.0), (0.03, 0.02)))


def asking(contract: Contract, embodiment: str = "agibot_g1", **site: object) -> Contract:
    return contract.model_copy(
        update={
            "model": contract.model.model_copy(update={"embodiment": embodiment}),
            "site": contract.site.model_copy(update=site),
        }
    )


def test_a_contract_that_asks_for_nothing_needs_no_geometry(contract: Contract) -> None:
    assert checks_of(asking(contract, "unheard_of")) == ()


def test_a_contract_that_asks_gets_its_checks_or_is_told_what_is_missing(contract: Contract) -> None:
    both = asking(contract, workspace={"one": BOX}, self_clearance_m=0.0)
    assert [type(check) for check in checks_of(both, Rail())] == [StaysInWorkspace, KeepsClearOfItself]
    with pytest.raises(ContractError, match=r"hands \['three'\], the robot has \['one', 'two'\]"):
        checks_of(asking(contract, workspace={"three": BOX}), Rail())
    with pytest.raises(ContractError, match="no geometry of 'unheard_of' is installed"):
        checks_of(asking(contract, "unheard_of", self_clearance_m=0.0))
