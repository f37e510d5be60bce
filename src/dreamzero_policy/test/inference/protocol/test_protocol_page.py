"""The bytes that docs/reference/protocol.md shows are those the code sends, and what it reads back."""

import re
from pathlib import Path

import numpy as np
import pytest

from dreamzero_policy.inference.protocol import messages, official
from dreamzero_policy.inference.protocol.arrays import pack, unpack
from dreamzero_policy.inference.protocol.frames import encode_frames
from dreamzero_policy.runtime.contract import load_model_section

ROOT = Path(__file__).parents[5]
PAGE = ROOT / "docs" / "reference" / "protocol.md"
DROID = official.Names.of(load_model_section(ROOT / "config" / "droid_franka.yaml"))
CONTRACT = 4 * "0123456789abcdef"

ASKED = {
    "open": messages.Open(id=1, contract=CONTRACT, prompt="wave", epoch=7),
    "observe": messages.Observe(
        id=2, epoch=7, block=0, stamps_ns=[1_000], frames=encode_frames(np.full((1, 1, 2, 3), 255, np.uint8))
    ),
    "predict": messages.Predict(
        id=3, epoch=7, block=0, state=np.array([0.5, -1.0], np.float32), steps=4, seed=9, deadline_s=0.25
    ),
}
TOLD = {
    "chunk": messages.Chunk(
        id=3,
        epoch=7,
        branch=0,
        block=0,
        observation_ns=1_000,
        actions=np.array([[0.5, -1.0]], np.float32),
        steps=4,
        evaluations=8,
        seed=9,
        guidance_scale=1.5,
        held_rows=0,
        timings_s={"queue": 0.0, "denoise": 0.125, "model": 0.125, "server": 0.25},
    ),
    "error": messages.Error(id=3, code="deadline", message="late"),
}
INFER = official.Infer(
    images={camera: np.full((1, 1, 1, 3), 255, np.uint8) for camera in DROID.cameras},
    state=np.array([0.0, 0.0, 0.0, -1.5, 0.0, 1.5, 0.0, 1.0]),
    prompt="wave",
    session_id="a",
)
OTHER = {
    "array": pack(np.array([[1.0, 2.0]], np.float32)),
    "configuration": DROID.config.pack(),
    "reset": official.encode_reset(),
    "infer": official.encode_infer(DROID, INFER),
}


def dump(data: bytes) -> str:
    """Sixteen bytes a line: offset, hexadecimal, printable ASCII."""
    lines = []
    for begin in range(0, len(data), 16):
        line = data[begin : begin + 16]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in line)
        lines.append(f"{begin:04x}  {line.hex(' '):<47}  {text}")
    return "\n".join(lines)


DUMPS = dict(re.findall(r"<!-- bytes: (\w+) -->\n```text\n(.*?)\n```", PAGE.read_text(), re.DOTALL))


def shown(name: str) -> bytes:
    """The bytes of the page's dump of that name."""
    return bytes.fromhex("".join(line[6:53] for line in DUMPS[name].splitlines()))


def test_every_dump_on_the_page_is_compared_and_its_offsets_and_text_are_those_of_its_bytes() -> None:
    assert DUMPS.keys() == ASKED.keys() | TOLD.keys() | OTHER.keys()
    assert PAGE.read_text().count("```text") == len(DUMPS)
    for name, printed in DUMPS.items():
        assert [line.rstrip() for line in dump(shown(name)).splitlines()] == printed.splitlines(), name


@pytest.mark.parametrize("name", ASKED)
def test_what_a_client_sends_is_what_the_page_shows(name: str) -> None:
    assert shown(name) == messages.encode(ASKED[name])
    assert messages.encode(messages.decode_ask(shown(name))) == shown(name)


@pytest.mark.parametrize("name", TOLD)
def test_what_a_server_sends_is_what_the_page_shows(name: str) -> None:
    assert shown(name) == messages.encode(TOLD[name])
    assert messages.encode(messages.decode_told(shown(name))) == shown(name)


def test_the_released_servers_messages_are_those_of_the_page() -> None:
    assert {name: shown(name) for name in OTHER} == OTHER
    assert official.ServerConfig.unpack(shown("configuration")) == DROID.config
    assert official.decode_request(DROID, shown("reset")) == official.Reset()
    received = official.decode_request(DROID, shown("infer"))
    assert (received.prompt, received.session_id) == (INFER.prompt, INFER.session_id)
    assert np.array_equal(received.state, INFER.state)
    assert all(np.array_equal(received.images[camera], image) for camera, image in INFER.images.items())
    assert np.array_equal(unpack(shown("array")), np.array([[1.0, 2.0]], np.float32))


def test_every_message_is_on_the_page() -> None:
    page = PAGE.read_text()
    kinds = [kind for union in (messages.Ask, messages.Told) for kind in union.__args__]
    for kind in kinds:
        assert f"`{kind.model_fields['type'].default}`" in page, f"{kind.__name__} is missing"
        for field in kind.model_fields:
            assert field == "type" or f"`{field}`" in page, f"{kind.__name__}.{field} is missing"
    for code in messages.ErrorCode.__args__:
        assert f"`{code}`" in page, f"error {code} is missing"


if __name__ == "__main__":
    for name, data in {n: messages.encode(m) for n, m in (ASKED | TOLD).items()}.items():
        print(f"<!-- bytes: {name} -->\n```text\n{dump(data)}\n```\n")
    for name, data in OTHER.items():
        print(f"<!-- bytes: {name} -->\n```text\n{dump(data)}\n```\n")
