"""A network that is really cut: the server is in a network namespace, and its cable is pulled.

No side is told, no packet is answered. Needs the right to make namespaces; without it these tests are skipped.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from dreamzero_policy.inference.remote.policy import RemotePolicy
from dreamzero_policy.inference.remote.roboarena import RoboArenaDialogue
from dreamzero_policy.inference.remote.settings import RemoteSettings
from dreamzero_policy.runtime.faults import Fault
from dreamzero_policy.runtime.policy import Interruption, Reply, Resumption

from .conftest import PATIENCE_S, block, next_answer

SPACE = f"dz{os.getpid() % 100_000}"
HERE, THERE = f"{SPACE}a", f"{SPACE}b"  # the two ends of the cable
SUBNET = f"10.{os.getpid() % 200 + 20}.{os.getpid() // 200 % 250}"
LINK_TIMEOUT_S, BUSY_MACHINE_S = 1.0, 2.5
SERVER = Path(__file__).with_name("released_server.py")


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True, timeout=20)


@pytest.fixture(scope="module")
def _namespace() -> Iterator[None]:
    try:
        ip("netns", "add", SPACE)
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"no network namespaces here: {getattr(error, 'stderr', error)}")
    try:
        ip("link", "add", HERE, "type", "veth", "peer", "name", THERE, "netns", SPACE)
        ip("addr", "add", f"{SUBNET}.1/24", "dev", HERE)
        ip("-n", SPACE, "addr", "add", f"{SUBNET}.2/24", "dev", THERE)
        ip("link", "set", HERE, "up")
        ip("-n", SPACE, "link", "set", THERE, "up")
        yield
    finally:
        ip("netns", "del", SPACE)


@dataclass
class Cable:
    """Between the robot and a server behind it."""

    policy: RemotePolicy

    def pull(self) -> None:
        ip("-n", SPACE, "link", "set", THERE, "down")

    def plug(self) -> None:
        ip("-n", SPACE, "link", "set", THERE, "up")


@pytest.fixture
def cable_to(_namespace: None, franka) -> Iterator[Callable[[float], Cable]]:
    """To a server that computes for so long."""
    servers, policies = [], []

    def make(busy_s: float) -> Cable:
        command = ["ip", "netns", "exec", SPACE, sys.executable, str(SERVER), f"{SUBNET}.2", "9000", str(busy_s)]
        servers.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        assert servers[-1].stdout.readline() == "listening\n"
        settings = RemoteSettings(
            f"ws://{SUBNET}.2:9000", "official", link_timeout_s=LINK_TIMEOUT_S, longest_pause_s=0.5
        )
        policies.append(RemotePolicy(settings, lambda server: RoboArenaDialogue(server, franka)))
        policies[-1].wait_until_ready(PATIENCE_S)
        return Cable(policies[-1])

    yield make
    ip("-n", SPACE, "link", "set", THERE, "up")
    for policy in policies:
        policy.close()
    for server in servers:
        server.kill()
        server.wait()


def comes_back(cable: Cable, epoch: int) -> None:
    cable.plug()
    assert isinstance(next_answer(cable.policy, Resumption), Resumption)
    cable.policy.reset("touch", epoch)
    cable.policy.submit(block(epoch, 0))
    assert isinstance(next_answer(cable.policy), Reply)


def test_a_cable_that_is_pulled_while_nothing_is_asked_is_noticed(cable_to) -> None:
    cable = cable_to(0.0)
    cable.pull()
    began = time.monotonic()
    trouble = next_answer(cable.policy, Interruption).trouble
    assert trouble.fault is Fault.SERVER_UNREACHABLE
    assert (
        time.monotonic() - began < LINK_TIMEOUT_S + 1.0 + BUSY_MACHINE_S
    )  # it is first asked after a second's silence
    comes_back(cable, 1)


def test_a_cable_that_is_pulled_while_the_server_computes_is_noticed_long_before_the_answer_is_late(cable_to) -> None:
    cable = cable_to(4.0)
    cable.policy.reset("touch", 1)
    cable.policy.submit(block(1, 0))
    time.sleep(1.0)
    cable.pull()
    began = time.monotonic()
    trouble = next_answer(cable.policy, Interruption).trouble
    assert trouble.fault is Fault.SERVER_UNREACHABLE
    assert time.monotonic() - began < LINK_TIMEOUT_S + 1.0 + BUSY_MACHINE_S < cable.policy.settings.inference_timeout_s
    comes_back(cable, 2)


def test_a_server_that_computes_for_long_on_a_good_network_is_no_fault(cable_to) -> None:
    cable = cable_to(2.5 * LINK_TIMEOUT_S)  # it answers no ping meanwhile, its kernel does
    cable.policy.reset("touch", 1)
    cable.policy.submit(block(1, 0))
    assert isinstance(next_answer(cable.policy), Reply)
