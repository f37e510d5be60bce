"""Two clients for the tests: one of the session protocol, and one of the released server's written from its facts.

The second knows nothing of this project: it packs and unpacks for itself, as `openpi_client.msgpack_numpy` does.
"""

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgpack
import numpy as np
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from dreamzero_policy.inference.protocol import SESSION_PATH, messages
from dreamzero_policy.inference.protocol.frames import encode_frames


class Robot:
    """Asks one thing at a time and gives the answer; what came unasked is in `unasked`."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.unasked: list[messages.Told] = []
        self._id = 0
        self.opened: messages.Opened | None = None
        self.epoch = 1

    def ask(self, kind: type, **fields: Any) -> Any:
        self.send(kind, **fields)
        return self.hear()

    def send(self, kind: type, **fields: Any) -> int:
        self._id += 1
        if "epoch" in kind.model_fields:
            fields.setdefault("epoch", self.epoch)
        self.connection.send(messages.encode(kind(id=self._id, **fields)))
        return self._id

    def hear(self) -> Any:
        while True:
            told = messages.decode_told(self.connection.recv(timeout=120))
            if not isinstance(told, messages.Surprise | messages.Draining):
                return told
            self.unasked.append(told)

    def open(self, contract: str, prompt: str = "wave", **fields: Any) -> messages.Opened | messages.Error:
        fields.setdefault("period_s", 1000.0)  # a test's robot reserves next to nothing
        self.opened = self.ask(messages.Open, contract=contract, prompt=prompt, **fields)
        return self.opened

    def observe(self, block: int, canvas: np.ndarray, encoding: str = "raw", **fields: Any) -> Any:
        quality = 90 if encoding == "jpeg" else None
        stamps = list(range(len(canvas)))
        frames = encode_frames(canvas, encoding, quality)
        return self.ask(messages.Observe, block=block, stamps_ns=stamps, frames=frames, **fields)

    def predict(self, block: int, state: np.ndarray, **fields: Any) -> Any:
        return self.ask(messages.Predict, block=block, state=state, **({"steps": 2, "seed": 5} | fields))


@contextmanager
def robot(address: str, **options: Any) -> Iterator[Robot]:
    with connect(f"{address}{SESSION_PATH}", compression=None, max_size=None, proxy=None, **options) as connection:
        client = Robot(connection)
        yield client
        with contextlib.suppress(ConnectionClosed):
            client.ask(messages.Close)


def _packed(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return {b"__ndarray__": True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}
    raise TypeError(value)


def _unpacked(value: dict) -> Any:
    if b"__ndarray__" in value:
        return np.ndarray(buffer=value[b"data"], dtype=np.dtype(value[b"dtype"]), shape=value[b"shape"])
    return value


class ReleasedClient:
    """The released server's client: configuration on connecting, `infer` and `reset`."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.configuration = msgpack.unpackb(connection.recv(), object_hook=_unpacked)

    def infer(self, observation: dict[str, Any]) -> np.ndarray:
        self.connection.send(msgpack.packb(observation | {"endpoint": "infer"}, default=_packed))
        answer = self.connection.recv(timeout=120)
        if isinstance(answer, str):
            raise RuntimeError(f"Error in inference server:\n{answer}")
        return msgpack.unpackb(answer, object_hook=_unpacked)

    def reset(self) -> str | bytes:
        self.connection.send(msgpack.packb({"endpoint": "reset"}))
        return self.connection.recv(timeout=120)


@contextmanager
def released_client(address: str, **options: Any) -> Iterator[ReleasedClient]:
    with connect(address, compression=None, max_size=None, proxy=None, **options) as connection:
        yield ReleasedClient(connection)
