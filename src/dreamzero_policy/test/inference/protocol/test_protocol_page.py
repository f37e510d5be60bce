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
    "error": messages.Error(id=3, code="deadline", message="late"),
}
OTHER = {
    "array": pack(np.array([[1.0, 2.0]], np.float32)),
    "configuration": DROID.config.pack(),
    "reset": official.encode_reset(),
}


def dump(data: bytes) -> str:
    """Sixteen bytes a line: offset, hexadecimal, printable ASCII."""
    lines = []
    for begin in range(0, len(data), 16):
        line = data[begin : begin + 16]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in line)
        lines.append(f"{begin:04x}  {line.hex(' '):<47}  {text}")
    return "\n".join(lines)


def shown(name: str) -> bytes:
    """The bytes of the page's dump of that name."""
    found = re.search(rf"<!-- bytes: {name} -->\n```text\n(.*?)\n```", PAGE.read_text(), re.DOTALL)
    assert found, f"{PAGE} has no bytes of {name!r}"
    return bytes.fromhex("".join(line[6:53] for line in found[1].splitlines()))


@pytest.mark.parametrize("name", ASKED)
def test_what_a_client_sends_is_what_the_page_shows(name: str) -> None:
    assert shown(name) == messages.encode(ASKED[name])
    assert messages.encode(messages.decode_ask(shown(name))) == shown(name)


@pytest.mark.parametrize("name", TOLD)
def test_what_a_server_sends_is_what_the_page_shows(name: str) -> None:
    assert shown(name) == messages.encode(TOLD[name])
    assert messages.decode_told(shown(name)) == TOLD[name]


def test_the_released_servers_messages_are_those_of_the_page() -> None:
    assert {name: shown(name) for name in OTHER} == OTHER
    assert official.ServerConfig.unpack(shown("configuration")) == DROID.config
    assert official.decode_request(DROID, shown("reset")) == official.Reset()
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
