"""A lookout on the stack's contract."""

from pathlib import Path

import pytest

from dreamzero_policy.runtime.contract import Contract, load_contract

from .scene import Scene

CONTRACT = Path(__file__).parents[4] / "config" / "agibot_g1.yaml"


@pytest.fixture(scope="session")
def contract() -> Contract:
    return load_contract(CONTRACT)


@pytest.fixture
def scene(contract: Contract) -> Scene:
    return Scene(contract)
