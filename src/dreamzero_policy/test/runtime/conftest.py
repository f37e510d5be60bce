"""The stack's contract, statistics that make every row an offset of at most 0.2 rad, and the small world's robot."""

from pathlib import Path

import numpy as np
import pytest

from dreamzero_policy.runtime.contract import Contract, load_contract
from dreamzero_policy.runtime.embodiment import Embodiment, Quantiles, Statistics

from .small_world import Robot

CONTRACT = Path(__file__).parents[4] / "config" / "agibot_g1.yaml"


@pytest.fixture(scope="session")
def contract() -> Contract:
    return load_contract(CONTRACT)


@pytest.fixture(scope="session")
def embodiment(contract: Contract) -> Embodiment:
    def around_zero(width: int, reach: float) -> Quantiles:
        return Quantiles(np.full(width, -reach), np.full(width, reach))

    statistics = Statistics(
        around_zero(len(contract.model.state_joints), 2.0), around_zero(contract.model.action_width, 0.2), ""
    )
    return Embodiment(contract, statistics)


@pytest.fixture
def robot(embodiment: Embodiment) -> Robot:
    return Robot(embodiment)
