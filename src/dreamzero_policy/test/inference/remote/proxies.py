"""What stands between a robot and a server and does harm on request: to bytes, or to whole messages."""

import queue
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from websockets.sync.server import ServerConnection, serve

LINGER_NOT = struct.pack("ii", 1, 0)  # close() becomes a reset


class Wire:
    """Carries bytes to a port that may change."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.delay_s = 0.0  # for every piece, either way
        self._carries = threading.Event()
        self._carries.set()
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"ws://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Nothing comes through any more, and nobody is told."""
        self._carries.clear()

    def heal(self) -> None:
        """Connections that were cut are gone; new ones work."""
        self.reset_all()
        self._carries.set()

    def reset_all(self) -> None:
        """Both sides of every connection are told that the other is gone."""
        for end in self._open:
            with suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._open.clear()

    def close(self) -> None:
        self._listener.close()
        self.reset_all()
        self._carries.set()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                robot, _ = self._listener.accept()
                try:
                    server = socket.create_connection(("127.0.0.1", self.port), 5)
                except OSError:
                    robot.close()
                    continue
                self._open += [robot, server]
                for source, target in ((robot, server), (server, robot)):
                    threading.Thread(target=self._carry, args=(source, target), daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                self._carries.wait()
                time.sleep(self.delay_s)
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


@contextmanager
def wire_to(port: int) -> Iterator[Wire]:
    wire = Wire(port)
    try:
        yield wire
    finally:
        wire.close()


Handle = Callable[[bytes], list[bytes]]


class Post:
    """Carries whole messages; `answers` may change what the server sends: leave out, repeat, keep for later."""

    def __init__(self, address: str) -> None:
        self._server = address
        self.answers: Handle = lambda message: [message]
        self.address = ""

    def handle(self, robot: ServerConnection) -> None:
        with connect(self._server + robot.request.path, compression=None, max_size=None) as server:
            there = threading.Thread(target=self._ask, args=(robot, server), daemon=True)
            there.start()
            with suppress(ConnectionClosed):
                for message in server:
                    for each in self.answers(message):
                        robot.send(each)
            robot.close()

    @staticmethod
    def _ask(robot: ServerConnection, server: object) -> None:
        with suppress(ConnectionClosed):
            for message in robot:
                server.send(message)
        server.close()


@contextmanager
def post_to(address: str) -> Iterator[Post]:
    post = Post(address)
    with serve(post.handle, "127.0.0.1", 0, compression=None, max_size=None) as listening:
        post.address = f"ws://127.0.0.1:{listening.socket.getsockname()[1]}"
        thread = threading.Thread(target=listening.serve_forever, daemon=True)
        thread.start()
        try:
            yield post
        finally:
            listening.shutdown()
            thread.join(10)


class Recorder:
    """Puts aside what passes, for a test to look at."""

    def __init__(self) -> None:
        self.messages: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def __call__(self, message: bytes) -> list[bytes]:
        self.messages.put(message)
        return [message]
