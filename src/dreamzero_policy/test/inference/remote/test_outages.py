"""A server that is slow, gone, restarted, full, silent, or cut off: each has one outcome with a name.

The server is real, in a thread; between it and the robot stands a wire that does harm.
"""

import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from dreamzero_policy.inference.mailbox import WorkerError
from dreamzero_policy.inference.remote.policy import RemotePolicy
from dreamzero_policy.inference.remote.sessions import Seat, SessionDialogue
from dreamzero_policy.inference.remote.settings import RemoteSettings
from dreamzero_policy.runtime.contract import Contract
from dreamzero_policy.runtime.faults import Fault
from dreamzero_policy.runtime.policy import Failure, Interruption, Reply, Resumption

from .conftest import PATIENCE_S, ask, next_answer
from .proxies import Wire, wire_to
from .serving import Served, served

QUICK = {"link_timeout_s": 1.0, "longest_pause_s": 0.5}


@pytest.fixture(scope="module")
def server(arm_checkpoint: Path) -> Iterator[Served]:
    with served(arm_checkpoint) as running:
        yield running


@pytest.fixture
def wire(server: Served) -> Iterator[Wire]:
    with wire_to(server.service.port) as wire:
        yield wire


Connect = Callable[..., RemotePolicy]


@pytest.fixture
def connect(arm_contract: Contract) -> Iterator[Connect]:
    """A policy that connects to an address."""
    policies = []

    def connect(address: str, contract: Contract = arm_contract, wait: bool = True, **settings: object) -> RemotePolicy:
        chosen, seat = RemoteSettings(address, **(QUICK | settings)), Seat()
        policies.append(RemotePolicy(chosen, lambda server: SessionDialogue(server, contract, seat)))
        if wait:
            policies[-1].wait_until_ready(PATIENCE_S)
        return policies[-1]

    yield connect
    for policy in policies:
        policy.close()


def chunk(policy: RemotePolicy, epoch: int, blocks: int = 1) -> Reply:
    """The newest of a new epoch."""
    policy.reset("touch", epoch)
    for number in range(blocks):
        policy.submit(ask(epoch, number))
        reply = next_answer(policy)
        assert isinstance(reply, Reply), reply
        assert reply.epoch == epoch
    return reply


def interruption(policy: RemotePolicy, fault: Fault) -> str:
    """The text of the next one."""
    answer = next_answer(policy, Interruption, Failure)
    assert isinstance(answer, Interruption), answer
    assert answer.trouble.fault is fault, answer.trouble
    return answer.trouble.text


def sessions(server: Served) -> int:
    return len(server.service._hosted)


def test_a_connection_that_is_lost_is_told_made_anew_and_asked_in_a_new_epoch(server, wire, connect) -> None:
    policy = connect(wire.address)
    before = chunk(policy, 1, blocks=3)
    wire.reset_all()
    text = interruption(policy, Fault.SERVER_UNREACHABLE)
    assert f"the connection to {wire.address[5:]} was lost; attempt 1 to connect in 0." in text
    policy.submit(ask(1, 3))  # belongs to the epoch that is lost
    assert "is there again: new epoch" in next_answer(policy, Resumption).message
    after = chunk(policy, 2, blocks=3)
    np.testing.assert_array_equal(after.actions, before.actions)  # nothing of before is remembered
    assert sessions(server) == 1  # the place on the server is the same


def test_a_network_that_is_cut_is_noticed_within_the_stated_time(wire, connect) -> None:
    policy = connect(wire.address)
    chunk(policy, 1)
    wire.cut()
    began = time.monotonic()
    text = interruption(policy, Fault.SERVER_UNREACHABLE)
    assert time.monotonic() - began < 1.5 * QUICK["link_timeout_s"] + 2.0  # a crowded test machine
    assert "keepalive ping timeout" in text or "was lost" in text
    wire.heal()
    next_answer(policy, Resumption)
    chunk(policy, 2)


def test_a_slow_network_is_no_fault(wire, connect) -> None:
    wire.delay_s = 0.15
    policy = connect(wire.address)
    chunk(policy, 1, blocks=3)
    assert policy.poll() is None


def test_a_server_that_does_not_answer_in_time_is_connected_to_anew(wire, connect) -> None:
    policy = connect(wire.address, inference_timeout_s=4.0, link_timeout_s=60.0)  # pings are no help here
    chunk(policy, 1)
    wire.cut()
    policy.submit(ask(1, 1))
    assert "has not answered for 4.0 s" in interruption(policy, Fault.SERVER_SILENT)
    wire.heal()
    next_answer(policy, Resumption)
    chunk(policy, 2)


def test_a_server_that_is_restarted_is_found_again(arm_checkpoint, connect) -> None:
    with served(arm_checkpoint, drain_s=0.0) as first:
        port = first.service.port
        policy = connect(first.address)
        before = chunk(policy, 1, blocks=2)
    text = interruption(policy, Fault.SERVER_BUSY)
    assert "goes away" in text
    interruption(policy, Fault.SERVER_UNREACHABLE)
    with served(arm_checkpoint, port=port) as second:
        next_answer(policy, Resumption)
        np.testing.assert_array_equal(chunk(policy, 2, blocks=2).actions, before.actions)
        assert sessions(second) == 1
        policy.close()


def test_a_server_that_comes_back_with_another_checkpoint_is_refused(
    arm_checkpoint,
    tmp_path,
    connect,
) -> None:
    with served(arm_checkpoint, drain_s=0.0) as first:
        port = first.service.port
        policy = connect(first.address)
        chunk(policy, 1)
    other = tmp_path / "other"
    subprocess.run(["cp", "-r", arm_checkpoint, other], check=True)
    (other / "note.txt").write_text("not the same\n")
    with served(other, port=port):
        failure = next_answer(policy, Failure)
        assert failure.fault is Fault.SERVER_REFUSED
        assert "came back with checkpoint" in failure.message
        policy.close()


def test_a_server_that_is_not_there_yet_is_waited_for_and_says_why(server, arm_checkpoint, connect) -> None:
    with wire_to(1) as nobody:  # accepts, and hangs up at once
        policy, told = connect(nobody.address, wait=False), []
        nobody_yet = time.monotonic() + 1.0

        def progress(text: str) -> None:
            told.append(text)
            if time.monotonic() > nobody_yet:
                nobody.port = server.service.port

        policy.wait_until_ready(PATIENCE_S, progress=progress)
    assert "server_unreachable: " in told[0] and "attempt 1 to connect in" in told[0]


def test_one_that_never_comes_is_an_error_that_names_what_was_tried(connect) -> None:
    with wire_to(1) as nobody, pytest.raises(WorkerError, match=r"no server after 1 s. server_unreachable: 127.0.0.1:"):
        connect(nobody.address, wait=False).wait_until_ready(1.0)


def test_waiting_can_be_interrupted(connect) -> None:
    with wire_to(1) as nobody, pytest.raises(WorkerError, match="interrupted"):
        connect(nobody.address, wait=False).wait_until_ready(PATIENCE_S, interrupted=lambda: True)


def test_another_contract_is_refused_with_both_hashes(server, connect, franka) -> None:
    with pytest.raises(WorkerError, match=rf"server_refused: .*contract.*{franka.hash[:12]}.*trained for"):
        connect(server.address, franka)


def test_a_full_server_is_asked_again_until_there_is_room(arm_checkpoint, connect) -> None:
    with served(arm_checkpoint, most_connections=1) as small:
        first, second = connect(small.address), connect(small.address, wait=False)
        assert "HTTP 503: full: 1 connections" in interruption(second, Fault.SERVER_BUSY)
        first.close()
        second.wait_until_ready(PATIENCE_S)
        chunk(second, 1)


def test_a_session_that_was_ended_by_the_robot_is_gone_on_the_server_at_once(server, connect) -> None:
    before = sessions(server)
    policy = connect(server.address)
    assert sessions(server) == before + 1
    policy.close()
    deadline = time.monotonic() + 5.0
    while sessions(server) > before:
        assert time.monotonic() < deadline
        time.sleep(0.01)


# Who may come in


TOKEN, OTHER = "a-token-of-sixteen-and-more", "another-token-of-sixteen"


@pytest.mark.parametrize("content", [None, OTHER])
def test_a_robot_without_the_token_is_refused(arm_checkpoint, connect, tmp_path, content) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_text(content + "\n")
    with served(arm_checkpoint, tokens=(TOKEN,)) as closed:
        with pytest.raises(WorkerError, match=r"server_refused: .*HTTP 401.*see server_token_file"):
            connect(closed.address, token_file=None if content is None else path)
        path.write_text(TOKEN + "\n")
        chunk(connect(closed.address, token_file=path), 1)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    made, key = folder / "certificate.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=server"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(made)]
    subprocess.run(command, check=True, capture_output=True)
    return made, key


def test_with_tls_a_certificate_must_be_trusted(arm_checkpoint, connect, certificate) -> None:
    made, key = certificate
    with served(arm_checkpoint, certificate=made, key=key) as closed:
        address = closed.address.replace("ws://", "wss://")
        with pytest.raises(WorkerError, match=r"server_refused: the certificate of 127.0.0.1:.* is not trusted"):
            connect(address)
        chunk(connect(address, ca_file=made), 1)
        with pytest.raises(WorkerError, match="server_unreachable"):
            connect(closed.address, wait=False).wait_until_ready(1.0)


def test_a_policy_can_be_closed_at_any_moment(server, arm_contract) -> None:
    for pause_s in (0.0, 0.001, 0.01, 0.05, 0.2):
        settings, seat = RemoteSettings(server.address), Seat()
        policy = RemotePolicy(settings, lambda server, seat=seat: SessionDialogue(server, arm_contract, seat))
        time.sleep(pause_s)
        policy.close()
        assert not any(thread.name == "server-link" for thread in threading.enumerate())
