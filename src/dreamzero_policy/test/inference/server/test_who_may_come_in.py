"""Nothing listens where it was not told to, nobody comes in who may not, and limits end the one who exceeds them."""

import contextlib
import json
import socket
import ssl
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidMessage, InvalidStatus
from websockets.sync.client import connect

from dreamzero_policy.inference.protocol import SESSION_PATH, messages
from dreamzero_policy.inference.server.settings import Settings, SettingsError, listen_address, read_tokens
from dreamzero_policy.runtime.contract import Contract

from .robots import released_client, robot

TOKEN = "a-token-of-some-length"
STATE = np.zeros(8, np.float32)
FIRST = np.zeros((1, 32, 32, 3), np.uint8)


def get(address: str, path: str, **headers: str) -> tuple[int, str]:
    request = urllib.request.Request(address.replace("ws", "http", 1) + path, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def measured(address: str, name: str) -> float:
    """A number of /metrics; 0 where it was not counted yet."""
    status, text = get(address, "/metrics")
    assert status == 200
    return next((float(line.split()[-1]) for line in text.splitlines() if line.startswith(f"{name} ")), 0.0)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"host": "0.0.0.0"}, "can be reached from other machines"),
        ({"host": "::"}, "can be reached from other machines"),
        ({"host": "robots.example"}, "can be reached from other machines"),
        ({"tokens": ("short",)}, "fewer than 16"),
        ({"certificate": Path("x")}, "go together"),
        ({"memories": 1}, "memories is 1"),
        ({"most_load": 0.0}, "load is 0"),
    ],
)
def test_settings_that_are_not_safe_or_senseless_are_refused(settings: dict, reason: str) -> None:
    with pytest.raises(SettingsError, match=reason):
        Settings(Path("checkpoint"), **settings)


def test_beyond_loopback_it_listens_when_told_with_tokens_or_for_anyone() -> None:
    assert Settings(Path("c"), host="0.0.0.0", tokens=(TOKEN,)).admits(f"Bearer {TOKEN}")
    assert Settings(Path("c"), host="0.0.0.0", anyone=True).admits(None)


def test_addresses_and_token_files_are_read(tmp_path: Path) -> None:
    assert listen_address("127.0.0.1:8000") == ("127.0.0.1", 8000)
    assert listen_address("[::1]:0") == ("::1", 0)
    assert listen_address(":1") == ("127.0.0.1", 1)
    for text in ("8000", "host", "host:port", "host:70000"):
        with pytest.raises(SettingsError, match="expected host:port"):
            listen_address(text)
    (tmp_path / "tokens").write_text(f"# robots\n\n{TOKEN}\nanother-one-of-them\n")
    assert read_tokens(tmp_path / "tokens") == (TOKEN, "another-one-of-them")
    (tmp_path / "none").write_text("# none\n")
    for name in ("none", "absent"):
        with pytest.raises(SettingsError):
            read_tokens(tmp_path / name)


def test_health_measures_and_contract_can_be_asked_for(server, arm_contract: Contract) -> None:
    assert get(server.address, "/healthz") == (200, "OK\n")
    names = ("dreamzero_connections", "dreamzero_sessions", "dreamzero_chunks_total", "dreamzero_blocks_total")
    before = [measured(server.address, f'{name}{{protocol="session"}}') for name in names]
    with robot(server.address) as there:
        there.open(arm_contract.hash)
        there.observe(0, FIRST)
        there.predict(0, STATE)
        after = [measured(server.address, f'{name}{{protocol="session"}}') for name in names]
        assert [now - then for now, then in zip(after, before, strict=True)] == [1, 1, 1, 1]
    assert measured(server.address, "dreamzero_ready") == 1
    status, text = get(server.address, "/v1/contract")
    document = json.loads(text)
    assert (status, document["contract"], document["frames"]) == (200, arm_contract.hash, 8)
    assert document["cameras"]["wrist"] == {"view": [16, 16], "entry": "observation/wrist_image_left"}
    assert document["load"]["most"] == 0.85


def test_only_who_has_a_token_comes_in(start, arm_contract: Contract) -> None:
    served = start(tokens=(TOKEN, "another-one-of-them"))
    assert get(served.address, "/healthz")[0] == 200
    for path in ("/metrics", "/v1/contract", SESSION_PATH):
        assert get(served.address, path)[0] == 401
        assert get(served.address, path, Authorization="Bearer another-one-of-theM")[0] == 401
    assert get(served.address, "/metrics", Authorization=f"Bearer {TOKEN}")[0] == 200
    for wrong in ({}, {"Authorization": "Bearer "}, {"Authorization": f"Basic {TOKEN}"}):
        for path in ("/", SESSION_PATH):
            with pytest.raises(InvalidStatus, match="401"):
                connect(served.address + path, additional_headers=wrong, proxy=None)
    with robot(served.address, additional_headers={"Authorization": f"Bearer {TOKEN}"}) as there:
        assert isinstance(there.open(arm_contract.hash), messages.Opened)
    with released_client(served.address, additional_headers={"Authorization": f"Api-Key {TOKEN}"}) as client:
        assert client.configuration["n_external_cameras"] == 2


def test_a_page_in_a_browser_is_no_client(server) -> None:
    with pytest.raises(InvalidStatus, match="403"):
        connect(server.address + SESSION_PATH, origin="https://example.com", proxy=None)


def test_tls_is_spoken_where_a_certificate_is_given(start, arm_contract: Contract, tmp_path: Path) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-out", str(certificate), "-keyout", str(key)]
    subprocess.run(command, check=True, capture_output=True)
    served = start(certificate=certificate, key=key)
    trusting = ssl.create_default_context(cafile=str(certificate))
    assert served.address.startswith("wss://")
    with robot(served.address, ssl=trusting) as there:
        assert isinstance(there.open(arm_contract.hash), messages.Opened)
    with pytest.raises((InvalidMessage, OSError, EOFError)):
        connect(served.address.replace("wss", "ws", 1), proxy=None, open_timeout=30)


def test_who_exceeds_a_limit_is_cut_off_and_nobody_else(start, arm_contract: Contract) -> None:
    served = start(messages_hz=20.0, message_bytes=100_000, opening_s=1.0, most_connections=3, most_waiting=2)
    with robot(served.address) as good:
        good.open(arm_contract.hash)
        good.observe(0, FIRST)
        before = good.predict(0, STATE).actions
        with robot(served.address) as fast:
            with contextlib.suppress(ConnectionClosed):  # the cut may come before the last of them
                for _ in range(40):
                    fast.send(messages.Predict, block=0, state=STATE, steps=1, seed=0)
            codes = []
            with pytest.raises(ConnectionClosed) as closed:
                while True:
                    codes.append(fast.hear().code)
            assert (codes[0], codes[-1], closed.value.rcvd.code) == ("order", "rate", 1008)
        with robot(served.address) as large:
            with pytest.raises(ConnectionClosed) as closed:
                large.connection.send(bytes(100_001))
                large.connection.recv(timeout=60)
            assert closed.value.rcvd.code == 1009
        with connect(served.address + SESSION_PATH, proxy=None) as silent, pytest.raises(ConnectionClosed):
            silent.recv(timeout=60)
        with (
            released_client(served.address),
            released_client(served.address),
            pytest.raises(InvalidStatus, match="503"),
        ):
            connect(served.address, proxy=None)
        np.testing.assert_array_equal(good.predict(0, STATE).actions, before)


def test_a_connection_that_never_becomes_one_holds_nothing(server) -> None:
    idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(20)]
    for each in idle[:10]:
        each.sendall(b"GET / HTTP/1.1\r\nHost: ")
    assert get(server.address, "/healthz") == (200, "OK\n")
    for each in idle:
        each.close()


def test_the_next_session_is_refused_with_the_numbers_when_the_rate_is_promised(start, arm_contract: Contract) -> None:
    served = start()
    served.service.capacity.chunk_s = 0.02  # however fast this machine is, the period may be asked for
    period_s = 0.06  # two of them fit into 0.85
    with robot(served.address) as first, robot(served.address) as second, robot(served.address) as third:
        assert isinstance(first.open(arm_contract.hash, period_s=period_s), messages.Opened)
        assert isinstance(second.open(arm_contract.hash, period_s=period_s), messages.Opened)
        refused = third.open(arm_contract.hash, period_s=period_s)
        assert (refused.code, refused.closing) == ("full", True)
        assert "2 sessions take" in refused.message
        first.ask(messages.Close)
        with robot(served.address) as again:
            assert isinstance(again.open(arm_contract.hash, period_s=period_s), messages.Opened)


def test_an_idle_session_gives_its_rate_to_others_and_is_told_when_it_is_gone(start, arm_contract: Contract) -> None:
    served = start(idle_s=600.0)
    served.service.capacity.chunk_s = 0.02  # however fast this machine is, the period may be asked for
    period_s = 0.03
    with robot(served.address) as sleeper:
        sleeper.open(arm_contract.hash, period_s=period_s)
        for account in served.service.capacity.accounts:
            account.used_s -= 601.0
        with robot(served.address) as other:
            assert isinstance(other.open(arm_contract.hash, period_s=period_s), messages.Opened)
            refused = sleeper.observe(0, FIRST)
            assert (refused.code, refused.closing) == ("full", False)
        assert isinstance(sleeper.observe(0, FIRST), messages.Observed)


def test_no_session_begins_without_memory_for_it(start, arm_contract: Contract) -> None:
    served = start(memory_bytes=1)
    with robot(served.address) as there:
        refused = there.open(arm_contract.hash)
        assert (refused.code, refused.closing) == ("full", True)
        assert "MB" in refused.message
