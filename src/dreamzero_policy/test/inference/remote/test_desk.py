"""A robot of a fleet knows the desk alone: it goes where it is sent, stays, and asks again once that server is gone.

The desk is a few lines of HTTP, the servers are real.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest

from dreamzero_policy.inference.mailbox import WorkerError
from dreamzero_policy.inference.remote.policy import RemotePolicy
from dreamzero_policy.inference.remote.sessions import Seat, SessionDialogue
from dreamzero_policy.inference.remote.settings import RemoteSettings, RemoteSettingsError
from dreamzero_policy.runtime.contract import Contract
from dreamzero_policy.runtime.faults import Fault
from dreamzero_policy.runtime.policy import Interruption, Reply, Resumption

from .conftest import PATIENCE_S, ask, next_answer
from .proxies import Wire, wire_to
from .serving import served

TOKEN = "a-token-of-sixteen-and-more"


@dataclass
class Asked:
    """What a desk was asked, and what it answers."""

    address: str = ""
    status: int = 200
    body: object = None  # in place of the address
    headers: dict[str, str] = field(default_factory=dict)
    times: int = 0
    last: tuple[str, dict, str | None] = ("", {}, None)  # path, query, authorization
    url: str = ""


@pytest.fixture
def desk() -> Iterator[Asked]:
    asked = Asked()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            asked.times += 1
            asked.last = (parts.path, parse_qs(parts.query), self.headers.get("Authorization"))
            body = json.dumps({"address": asked.address} if asked.body is None else asked.body).encode()
            self.send_response(asked.status)
            for name, value in {"Content-Length": str(len(body)), **asked.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    asked.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield asked
    server.shutdown()
    server.server_close()
    thread.join()


def policy_of(contract: Contract, desk: Asked, **settings: object) -> RemotePolicy:
    chosen, seat = RemoteSettings(desk.url, **({"link_timeout_s": 1.0, "longest_pause_s": 0.5} | settings)), Seat()
    return RemotePolicy(chosen, lambda server: SessionDialogue(server, contract, seat))


@pytest.fixture
def connect(arm_contract: Contract, desk: Asked) -> Iterator:
    policies = []

    def connect(wait: bool = True, **settings: object) -> RemotePolicy:
        policies.append(policy_of(arm_contract, desk, **settings))
        if wait:
            policies[-1].wait_until_ready(PATIENCE_S)
        return policies[-1]

    yield connect
    for policy in policies:
        policy.close()


def chunk(policy: RemotePolicy, epoch: int) -> Reply:
    policy.reset("touch", epoch)
    policy.submit(ask(epoch, 0))
    reply = next_answer(policy, Reply)
    assert reply.epoch == epoch
    return reply


@pytest.fixture
def two_servers(arm_checkpoint: Path) -> Iterator[list[Wire]]:
    """Each behind a wire that can be cut."""
    with ExitStack() as stack:
        running = [stack.enter_context(served(arm_checkpoint, tokens=(TOKEN,))) for _ in range(2)]
        yield [stack.enter_context(wire_to(each.service.port)) for each in running]


def test_a_robot_stays_with_its_server_and_is_sent_to_another_once_it_is_gone(
    two_servers, desk, connect, tmp_path
) -> None:
    token = tmp_path / "token"
    token.write_text(TOKEN + "\n")
    here, there = two_servers
    desk.address = here.address
    policy = connect(token_file=token, period_s=2.5)
    before = chunk(policy, 1)
    assert desk.times == 1 and desk.last == ("/assign", {"period_s": ["2.5"]}, f"Bearer {TOKEN}")
    desk.address = there.address
    here.reset_all()  # a short loss: the session is there, and the robot goes back to it
    assert here.address[5:] in next_answer(policy, Interruption).trouble.text
    next_answer(policy, Resumption)
    chunk(policy, 2)
    assert desk.times == 1
    here.port = 1  # nobody: gone for good
    here.reset_all()
    assert next_answer(policy, Interruption).trouble.fault is Fault.SERVER_UNREACHABLE
    next_answer(policy, Resumption)
    np.testing.assert_array_equal(chunk(policy, 3).actions, before.actions)  # the same checkpoint, nothing remembered
    assert desk.times == 2


def test_a_fleet_without_room_is_asked_again_when_it_says(desk, connect) -> None:
    desk.status, desk.body, desk.headers = 503, {"error": "none of 2 servers has room"}, {"Retry-After": "0.7"}
    trouble = next_answer(connect(wait=False), Interruption).trouble
    assert trouble.fault is Fault.SERVER_BUSY
    assert "none of 2 servers has room" in trouble.text and "connect in 0.7 s" in trouble.text


@pytest.mark.parametrize(
    ("status", "body", "text"),
    [
        (401, {"error": "a token is needed"}, "server_refused: .*HTTP 401.*see server_token_file"),
        (404, {"error": "elsewhere"}, "server_refused: .*HTTP 404.*see server_url"),
        (302, {}, "no server after 1 s. server_unreachable: .*HTTP 302"),
        (200, {"there": 1}, "server_refused: .*expected the address of a server"),
        (200, [], "server_refused: .*expected the address of a server"),
        (200, {"address": 7}, "server_refused: .*the server's address is '7', expected ws://HOST:PORT"),
        (200, {"address": "http://127.0.0.1:1"}, "server_refused: .*sends the robot to http://127.0.0.1:1, expected"),
    ],
)
def test_a_desk_that_names_no_server_says_why(desk, connect, status, body, text) -> None:
    desk.status, desk.body, desk.headers = status, body, {"Location": "http://127.0.0.1:1/"}
    with pytest.raises(WorkerError, match=text):
        connect(wait=False).wait_until_ready(1.0)
    assert desk.times >= 1


def test_a_desk_that_is_not_there_is_waited_for(arm_contract, desk) -> None:
    desk.url = "http://127.0.0.1:1"
    policy = policy_of(arm_contract, desk)
    trouble = next_answer(policy, Interruption).trouble
    assert trouble.fault is Fault.SERVER_UNREACHABLE and "the desk 127.0.0.1:1 is not reached" in trouble.text
    policy.close()


def test_an_address_that_is_neither_a_servers_nor_a_desks_is_refused_with_what_is_expected() -> None:
    with pytest.raises(RemoteSettingsError, match=r"'robot:1', expected ws://.* or http\(s\)://"):
        RemoteSettings("robot:1")
