"""The stack's contract, and gates as processes."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dreamzero_policy.runtime.contract import Contract, load_contract

from .stand import Stand

CONTRACT = Path(__file__).parents[4] / "config" / "agibot_g1.yaml"


@pytest.fixture(scope="session")
def contract() -> Contract:
    return load_contract(CONTRACT)


@pytest.fixture
def start() -> Iterator[Callable[..., Stand]]:
    """Starts a gate with parameters, and ends it after the test."""
    running: list[Stand] = []

    def start_stand(*parameters: str) -> Stand:
        running.append(Stand(*parameters))
        return running[-1]

    yield start_stand
    for stand in running:
        stand.close()
