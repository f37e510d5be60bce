"""Whatever bytes come, the server answers or closes, lives on, and no other session notices.

`FUZZED_MESSAGES` (default 300) is how many are sent; `make fuzz` sends 10 000.
"""

import contextlib
import os
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgpack
import numpy as np
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from dreamzero_policy.inference.protocol import SESSION_PATH, messages, official
from dreamzero_policy.inference.protocol.arrays import ProtocolError, pack, unpack
from dreamzero_policy.inference.protocol.frames import Frames, decode_frames, encode_frames
from dreamzero_policy.runtime.contract import Contract

from .robots import robot

MESSAGES = int(os.environ.get("FUZZED_MESSAGES", "300"))
STATE = np.zeros(8, np.float32)
FIRST = np.full((1, 32, 32, 3), 90, np.uint8)
GROWTH_BYTES = 64e6

EDGES = [None, True, False, 0, 1, -1, 2**31, 2**63 - 1, 2**64 - 1, -(2**63), 0.0, float("nan"), float("inf"), 1e308]
EDGES += ["", "x" * 300, "\x00", b"", b"\xff" * 64, [], {}, [[[]]], {"a": {}}]
EDGES += [np.zeros(8, np.float32), np.zeros((0, 3), np.float32), np.array([np.nan] * 8, np.float32), np.zeros(8)]


def well_formed(contract: str) -> list[dict[str, Any]]:
    """One of every message, as plain maps."""
    frames = {"encoding": "raw", "quality": None, "height": 32, "width": 32, "images": [FIRST[0].tobytes()]}
    jpeg = dict(encode_frames(FIRST, "jpeg", 90))
    predict = {"id": 3, "epoch": 1, "branch": 0, "block": 0, "state": STATE, "steps": 1, "seed": 0}
    return [
        {"type": "open", "id": 1, "contract": contract, "prompt": "wave", "epoch": 1, "period_s": 1000.0},
        {"type": "resume", "id": 1, "token": "guess"},
        {"type": "observe", "id": 2, "epoch": 1, "block": 0, "stamps_ns": [0], "frames": frames},
        {"type": "observe", "id": 2, "epoch": 1, "block": 0, "stamps_ns": [0], "frames": jpeg},
        {"type": "predict", **predict},
        {"type": "predict", **predict, "prefix": {"rows": np.zeros((2, 1), np.float32), "columns": np.array([1])}},
        {"type": "dream", "id": 4, "epoch": 1, "encoding": "jpeg", "quality": 50},
        {"type": "fork", "id": 5, "epoch": 1, "branch": 0, "into": 1},
        {"type": "snapshot", "id": 6, "epoch": 1},
        {"type": "rollback", "id": 7, "epoch": 1, "snapshot": 0, "new_epoch": 1},
        {"type": "reset", "id": 8, "epoch": 1, "prompt": "push"},
        {"type": "close", "id": 9},
    ]


def released() -> dict[str, Any]:
    image = np.zeros((18, 32, 3), np.uint8)
    entries = {f"observation/{name}": image for name in official.ROBOARENA_CAMERAS}
    state = {"observation/joint_position": np.zeros(7), "observation/gripper_position": np.zeros(1)}
    return {"endpoint": "infer", "prompt": "wave", "session_id": "a", **entries, **state}


def spoiled(message: dict[str, Any], chance: random.Random) -> bytes | str:
    """The message with something wrong, or by chance nothing."""
    message = dict(message)
    for _ in range(chance.choice([0, 0, 1, 1, 1, 4])):
        key = chance.choice(list(message))
        match chance.randrange(5):
            case 0:
                del message[key]
                message = message or {"type": "open"}
            case 1:
                message[chance.choice(["x", "type", "id", "epoch"])] = chance.choice(EDGES)
            case 2 if isinstance(message[key], dict) and message[key]:
                inner = dict(message[key])
                inner[chance.choice(list(inner))] = chance.choice(EDGES)
                message[key] = inner
            case _:
                message[key] = chance.choice(EDGES)
    data = bytearray(pack(message))
    match chance.randrange(12):
        case 0:
            for _ in range(chance.randrange(1, 8)):
                data[chance.randrange(len(data))] = chance.randrange(256)
        case 1:
            data = data[: chance.randrange(len(data))]
        case 2:
            data += chance.randbytes(chance.randrange(1, 32))
        case 3 if chance.random() < 0.3:
            data = bytearray(chance.randbytes(chance.randrange(0, 200)))
        case 4 if chance.random() < 0.2:
            return "text"
    return bytes(data)


def bombard(
    address: str, path: str, first: bytes, message: Callable[[random.Random], bytes | str], count: int, seed: int
) -> None:
    """Send so many messages over connections that are opened again whenever the server closes one.

    Most connections begin with `first`, which is as it should be: what follows then reaches further.
    """
    chance, sent = random.Random(seed), 0
    while sent < count:
        options = {"compression": None, "max_size": None, "proxy": None, "ping_interval": None}
        with contextlib.suppress(ConnectionClosed), connect(address + path, **options) as connection:
            if path == "/":
                connection.recv(timeout=60)
            if chance.random() < 0.7:
                connection.send(first)
                connection.recv(timeout=60)
            for _ in range(min(200, count - sent)):
                sent += 1
                connection.send(message(chance))
                if chance.random() < 0.5:
                    connection.recv(timeout=60)


@pytest.mark.timeout(3600)
def test_the_server_outlives_fuzzed_messages_and_no_other_session_notices(server, arm_contract: Contract) -> None:
    process = psutil.Process(server.process.pid)
    kinds = well_formed(arm_contract.hash)
    with robot(server.address) as bystander:
        bystander.open(arm_contract.hash)
        bystander.observe(0, FIRST)
        expected = bystander.predict(0, STATE).actions
        opening, asking = pack(kinds[0]), pack(released())

        def session(count: int, seed: int) -> None:
            spoil = lambda chance: spoiled(chance.choice(kinds[1:]), chance)  # noqa: E731
            bombard(server.address, SESSION_PATH, opening, spoil, count, seed)

        session(60, seed=1000)
        resident = process.memory_info().rss
        for part in range(4):
            session(MESSAGES // 8, seed=part)
            bombard(server.address, "/", asking, lambda chance: spoiled(released(), chance), MESSAGES // 8, 100 + part)
            np.testing.assert_array_equal(bystander.predict(0, STATE).actions, expected)
        assert server.process.poll() is None
        parked = 1_500_000 * len(server.events("left"))  # bytes that sessions which may be resumed hold
        grown = process.memory_info().rss - resident
        assert grown < GROWTH_BYTES + parked
    refused = Counter(each["code"] for each in server.events("refused"))
    print(f"{8 * (MESSAGES // 8)} messages, {len(server.events('connected'))} connections, refused {dict(refused)}")
    print(f"{grown / 1e6:.1f} MB grown, {len(server.events('left'))} sessions are kept for whoever resumes them")
    for defect in ("session_failed", "connection_failed"):
        assert not server.events(defect), server.events(defect)[:1]


@settings(max_examples=min(MESSAGES, 2000), deadline=None, suppress_health_check=list(HealthCheck))
@given(st.binary(max_size=300))
def test_bytes_are_a_message_or_one_named_error(data: bytes) -> None:
    for decode in (messages.decode_ask, messages.decode_told, unpack, official.ServerConfig.unpack, official.is_reset):
        with contextlib.suppress(ProtocolError, official.RemoteError):
            decode(data)
    assert messages.id_of(data) is None or messages.id_of(data) >= 0


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8) | st.binary(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=min(MESSAGES, 2000), deadline=None, suppress_health_check=list(HealthCheck))
@given(PLAIN)
def test_plain_data_comes_back_as_it_was_or_is_refused(value: Any) -> None:
    try:
        back = unpack(pack(value))
    except ProtocolError:
        return
    assert msgpack.packb(back) == msgpack.packb(value)


@pytest.mark.parametrize(
    "array",
    [
        {b"__ndarray__": True, b"data": b"", b"dtype": "|O", b"shape": [0]},
        {b"__ndarray__": True, b"data": b"12", b"dtype": "<f4", b"shape": [1]},
        {b"__ndarray__": True, b"data": b"", b"dtype": "<f4", b"shape": [0, -1]},
        {b"__ndarray__": True, b"data": b"", b"dtype": "<f4", b"shape": [0] * 33},
        {b"__ndarray__": True, b"data": b"", b"dtype": "<f4", b"shape": [2**40, 0, 2**40]},
        {b"__ndarray__": True, b"data": "text", b"dtype": "<f4", b"shape": [1]},
        {b"__ndarray__": True, b"data": b"1234", b"dtype": "<f4"},
        {b"__ndarray__": True, b"data": b"1234", b"dtype": {"a": 1}, b"shape": [1]},
        {b"__npgeneric__": True, b"data": b"x", b"dtype": "<f4"},
        {b"__npgeneric__": True, b"data": 300, b"dtype": "|u1"},
    ],
)
def test_an_array_whose_parts_do_not_agree_is_refused(array: dict) -> None:
    with pytest.raises(ProtocolError):
        unpack(msgpack.packb(array))


def test_a_compressed_image_of_another_size_is_refused_before_it_is_unfolded() -> None:
    large = encode_frames(np.zeros((1, 4000, 4000, 3), np.uint8), "png")
    lying = Frames(encoding="png", height=32, width=32, images=large.images)
    with pytest.raises(ProtocolError, match="4000 x 4000, the message says 32 x 32"):
        decode_frames(lying)
    for images in ([b""], [b"\x89PNG\r\n"], [encode_frames(FIRST, "jpeg", 90).images[0]], [large.images[0][:60]]):
        with pytest.raises(ProtocolError):
            decode_frames(Frames(encoding="png", height=32, width=32, images=images))


def test_lossless_frames_come_back_as_they_were() -> None:
    canvas = np.random.default_rng(0).integers(0, 256, (3, 20, 31, 3), np.uint8)
    for encoding in ("raw", "png"):
        np.testing.assert_array_equal(decode_frames(encode_frames(canvas, encoding)), canvas)
    smooth = np.broadcast_to(np.linspace(0, 255, 32).astype(np.uint8)[None, None, :, None], (1, 32, 32, 3))
    jpeg = encode_frames(smooth, "jpeg", 95)
    assert np.abs(decode_frames(jpeg).astype(int) - smooth).max() < 12
    for wrong in (("raw", 5), ("jpeg", None)):
        with pytest.raises(ProtocolError, match="a quality goes with jpeg"):
            encode_frames(canvas, *wrong)
