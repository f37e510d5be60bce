"""Clients that come and go leave nothing behind, and idle sessions stay within the memory they are promised.

`CONNECT_CYCLES` (default 60) is how often they come; `make fuzz` has 1 000.
"""

import os

import numpy as np
import psutil
import pytest

from dreamzero_policy.inference.protocol import messages
from dreamzero_policy.runtime.contract import Contract

from .robots import released_client, robot

CYCLES = int(os.environ.get("CONNECT_CYCLES", "60"))
STATE = np.zeros(8, np.float32)
FIRST = np.zeros((1, 32, 32, 3), np.uint8)
BLOCK = np.zeros((8, 32, 32, 3), np.uint8)


def cycle(address: str, contract: str, number: int) -> None:
    """One client that does a little and goes, in one of three ways."""
    if number % 3 == 2:
        with released_client(address):
            return
    with robot(address) as there:
        there.open(contract)
        if number % 3 == 1:
            there.observe(0, FIRST)


@pytest.mark.timeout(3600)
def test_connections_come_and_go_without_growth(server, arm_contract: Contract) -> None:
    process = psutil.Process(server.process.pid)
    for number in range(30):
        cycle(server.address, arm_contract.hash, number)
    resident, files, threads = process.memory_info().rss, process.num_fds(), process.num_threads()
    for number in range(CYCLES):
        cycle(server.address, arm_contract.hash, number)
    grown = process.memory_info().rss - resident
    print(f"{CYCLES} connections: {grown / 1e6:.1f} MB, {process.num_fds() - files} files grown")
    assert process.num_fds() <= files + 2
    assert process.num_threads() <= threads + 2
    assert grown < 16e6


def test_fifty_idle_sessions_stay_within_their_stated_memory(server, arm_contract: Contract) -> None:
    process, robots = psutil.Process(server.process.pid), []
    for number in range(50):
        robots.append(context := robot(server.address))
        there = context.__enter__()
        opened = there.open(arm_contract.hash)
        there.observe(0, FIRST)
        there.observe(1, BLOCK)
        there.predict(1, STATE)
        if number == 0:
            resident = process.memory_info().rss
    try:
        grown = process.memory_info().rss - resident
        print(f"{grown / 49 / 1e6:.2f} MB each, {opened.memory_bytes / 1e6:.2f} MB stated")
        assert grown < 49 * opened.memory_bytes, f"{grown / 49 / 1e6:.2f} MB each, {opened.memory_bytes / 1e6} stated"
        assert isinstance(opened, messages.Opened)
    finally:
        for context in robots:
            context.__exit__(None, None, None)
