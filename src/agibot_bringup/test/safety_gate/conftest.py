"""The stack's contract, and a gate on it in a world of a few lines."""

from pathlib import Path

import pytest

from dreamzero_policy.runtime.contract import Contract, load_contract

CONTRACT = Path(__file__).parents[4] / "config" / "agibot_g1.yaml"


@pytest.fixture(scope="session")
def contract() -> Contract:
    return load_contract(CONTRACT)
