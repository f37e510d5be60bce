"""A session outlives its connection for a while and goes on where it was; a server that leaves does so with manners."""

import signal
import time

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from dreamzero_policy.inference.protocol import messages
from dreamzero_policy.runtime.contract import Contract

from .conftest import serving
from .robots import released_client, robot

STATE = np.zeros(8, np.float32)
BLOCKS = np.random.default_rng(2).integers(0, 256, (6, 8, 32, 32, 3), np.uint8)


def test_a_session_goes_on_bit_for_bit_over_another_connection(server, arm_contract: Contract) -> None:
    with robot(server.address) as whole:
        whole.open(arm_contract.hash)
        whole.observe(0, BLOCKS[0, :1])
        whole.observe(1, BLOCKS[1])
        whole.observe(2, BLOCKS[2])
        expected = whole.predict(2, STATE).actions
    with robot(server.address) as before:
        token = before.open(arm_contract.hash).token
        before.observe(0, BLOCKS[0, :1])
        before.observe(1, BLOCKS[1])
        before.connection.socket.shutdown(2)  # the network, not the client
    with robot(server.address) as behind:
        opened = behind.ask(messages.Resume, token=token)
        assert (opened.resumed, opened.epoch, opened.branches) == (True, 1, {"0": 1})
        behind.observe(2, BLOCKS[2])
        np.testing.assert_array_equal(behind.predict(2, STATE).actions, expected)


def test_the_newest_connection_takes_a_session_over(server, arm_contract: Contract) -> None:
    with robot(server.address) as before, robot(server.address) as behind:
        token = before.open(arm_contract.hash).token
        before.observe(0, BLOCKS[0, :1])
        assert behind.ask(messages.Resume, token=token).branches == {"0": 0}
        with pytest.raises(ConnectionClosed) as closed:
            before.connection.recv(timeout=60)
        assert closed.value.rcvd.code == 4000
        assert isinstance(behind.predict(0, STATE), messages.Chunk)


def test_a_token_that_nobody_has_or_whose_session_was_closed_is_refused(server, arm_contract: Contract) -> None:
    with robot(server.address) as there:
        assert there.ask(messages.Resume, token="guess").code == "token"
        token = there.open(arm_contract.hash).token
        there.ask(messages.Close)
    with robot(server.address) as there:
        assert there.ask(messages.Resume, token=token).code == "token"


def test_a_session_that_nobody_takes_up_in_time_gives_its_memory_back(start, arm_contract: Contract) -> None:
    served = start(resume_s=0.2)
    with robot(served.address) as there:
        token = there.open(arm_contract.hash).token
        there.connection.socket.shutdown(2)
    deadline = time.monotonic() + 60
    while served.service.capacity.accounts:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    with robot(served.address) as there:
        assert there.ask(messages.Resume, token=token).code == "token"


def test_on_sigterm_open_sessions_are_answered_and_no_new_ones_taken_then_the_process_ends(
    arm_checkpoint, arm_contract: Contract, tmp_path
) -> None:
    with serving(arm_checkpoint, tmp_path / "log", "--drain-s", "60") as server, robot(server.address) as there:
        there.open(arm_contract.hash)
        there.observe(0, BLOCKS[0, :1])
        server.process.send_signal(signal.SIGTERM)
        while not server.events("draining"):
            time.sleep(0.05)
        assert isinstance(there.predict(0, STATE), messages.Chunk)
        assert [type(told) for told in there.unasked] == [messages.Draining]
        assert there.unasked[0].within_s == 60
        with pytest.raises(InvalidStatus, match="503"), released_client(server.address):
            pass
        there.ask(messages.Close)
        assert server.process.wait(60) == 0
        assert server.events("ended")
